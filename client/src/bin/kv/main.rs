//! `kv`: reads and writes a Flotilla cluster from the command line.
//!
//! 1. `args` reads the command line; `escape` turns its texts into bytes.
//! 2. One client is connected; a subcommand (`records`, `lines`, `cluster`, `rocketmq`, `admin`) uses
//!    it.
//! 3. `output` prints the answers; `failure` turns errors into exit codes and error objects.

mod admin;
mod args;
mod cluster;
mod escape;
mod failure;
mod lines;
mod output;
mod records;
mod rocketmq;

use std::process::ExitCode;

use args::{AdminCommand, Cli, Command, System};
use clap::Parser;
use failure::Failure;
use flotilla_client::Client;
use output::Output;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let json = cli.common.json;
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Usage(format!("cannot start: {error}")))
        .and_then(|runtime| runtime.block_on(run(&cli)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(line) = failure.line(json) {
                eprintln!("{line}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Help and version are no errors; wrong usage is one object with `--json`.
fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
        let text = error.to_string();
        let message = text.trim().trim_start_matches("error: ").to_owned();
        if let Some(line) = Failure::Usage(message).line(true) {
            eprintln!("{line}");
        }
    } else {
        // Fails only when nobody reads it.
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

async fn run(cli: &Cli) -> Result<(), Failure> {
    let common = &cli.common;
    let mut out = Output::new(common);
    let result = dispatch(cli, &mut out).await;
    // What was printed before an error counts; the error counts more.
    let flushed = out.flush().map_err(Failure::from);
    result.and(flushed)
}

async fn dispatch(cli: &Cli, out: &mut Output) -> Result<(), Failure> {
    let common = &cli.common;
    let connect = async || {
        let builder = Client::builder().timeout(common.timeout);
        builder.connect(&common.placement).await
    };
    match &cli.command {
        Command::Put(args) => {
            let pair = records::put_input(common, args)?;
            records::put(&connect().await?, pair, out).await
        }
        Command::Get(args) => {
            let key = records::key_input(common, &args.key)?;
            let client = connect().await?.with_consistency(args.reading.consistency);
            records::get(&client, key, out).await
        }
        Command::Delete(args) => {
            let key = records::key_input(common, &args.key)?;
            records::delete(&connect().await?, key, out).await
        }
        Command::Scan(args) => {
            let range = (common.bytes(&args.start)?, common.bound(args.end.as_deref())?);
            let client = connect().await?.with_consistency(args.reading.consistency);
            records::scan(&client, range, args.limit, out).await
        }
        Command::Load(args) => lines::load(&connect().await?, args, out).await,
        Command::Dump(args) => {
            let start = common.bound(args.start.as_deref())?;
            let end = common.bound(args.end.as_deref())?;
            lines::dump(&connect().await?, (start, end), out).await
        }
        Command::Import(args) => match args.system {
            System::Rocketmq => {
                let entries = rocketmq::read(args)?;
                rocketmq::import(&connect().await?, args, entries, out).await
            }
        },
        Command::Export(args) => match args.system {
            System::Rocketmq => rocketmq::export(&connect().await?, args, out).await,
        },
        Command::Status => cluster::status(&connect().await?, out).await,
        Command::Regions => cluster::regions(&connect().await?, out).await,
        Command::Stores => cluster::stores(&connect().await?, out).await,
        Command::Admin(AdminCommand::Group(command)) => {
            let order = admin::Order::read(command)?;
            admin::carry_out(&connect().await?, order, out).await
        }
    }
}
