//! A store of the measured cluster: `kvserver run` with a thread that takes orders on standard
//! input. The end of standard input is the end of the parent, and ends the store.

use crate::drive::Driver;
use crate::protocol::Order;
use flotilla_benches::Error;
use flotilla_benches::playground::signal;
use flotilla_kvserver::PROGRAM;
use flotilla_kvserver::config::{RunArgs, Settings};
use flotilla_kvserver::node::{self, Embedded};
use flotilla_kvserver::process::start_logging;
use rustix::process::Signal;
use serde::Serialize;
use std::io::{BufRead, Write};

/// Runs until it is told to stop. Blocks.
pub fn run(args: RunArgs) -> Result<(), Error> {
    PROGRAM.install_panic_hook();
    let settings = Settings::load(args).map_err(|e| Error::Invalid(e.to_string()))?;
    start_logging(&settings.log_level, settings.log_format).map_err(Error::Cluster)?;
    let result = node::run_embedded(settings, |embedded| {
        let load = std::thread::Builder::new().name("load".to_owned());
        load.spawn(move || obey(&embedded)).expect("the system gives a thread");
    });
    result.map_err(|e| Error::Cluster(e.to_string()))
}

/// Carries out orders until the parent is gone.
fn obey(embedded: &Embedded) {
    let mut driver = Driver::new(embedded.clone());
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(Order::Groups) => say(&driver.groups()),
            Ok(Order::Run { work, in_flight, start_ns, end_ns }) => {
                say(&driver.run(work, in_flight, start_ns..end_ns));
            }
            Err(error) => eprintln!("not an order: {line}: {error}"),
        }
    }
    signal(std::process::id().cast_signed(), Signal::TERM);
}

fn say(answer: &impl Serialize) {
    let line = serde_json::to_string(answer).expect("plain structs are JSON");
    let mut out = std::io::stdout().lock();
    // A parent that is gone closes standard input as well, which ends this store.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
