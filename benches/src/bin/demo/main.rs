//! `demo`: the main job on real input, start to end, in about two minutes. Run by `make demo`.
//!
//! A cluster of processes, real metadata imported, 500 live consumers, a store killed and brought
//! back meanwhile, every acknowledged offset checked, the metadata exported and compared, the
//! throughput rows. Exit code 0 only if all of it was as promised.

mod cluster;
mod consumers;
mod layout;
mod leaders;
mod metadata;
mod pauses;
mod places;
mod screen;
mod steps;

use clap::Parser;
use flotilla_benches::Error;
use flotilla_benches::interrupt::or_interrupted;
use screen::Screen;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Shows Flotilla at its main job, on real message-queue metadata, and proves what it promises.
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
pub struct Args {
    /// Folder of RocketMQ metadata to import.
    #[arg(long, value_name = "DIR", default_value = "demo/rocketmq")]
    pub data: PathBuf,
    /// Live consumers that commit offsets.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(48..=5000))]
    pub consumers: u16,
    /// Counted seconds of each throughput row; 0 leaves the rows out.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(0..=60))]
    pub seconds: u8,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("demo: {}", Error::system("cannot start the runtime")(error));
            return ExitCode::FAILURE;
        }
    };
    let mut screen = Screen::new(steps::STEPS);
    let result = runtime.block_on(async {
        // A dropped future drops its cluster, which stops its servers and removes its folders.
        or_interrupted(steps::run(&args, &mut screen)).await
    });
    runtime.shutdown_timeout(Duration::from_secs(25));
    screen.end();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}
