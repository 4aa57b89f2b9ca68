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
use std::sync::mpsc::{Receiver, Sender, channel};

/// Runs until it is told to stop. Blocks.
pub fn run(args: RunArgs) -> Result<(), Error> {
    PROGRAM.install_panic_hook();
    let settings = Settings::load(args).map_err(|e| Error::Invalid(e.to_string()))?;
    start_logging(&settings.log_level, settings.log_format).map_err(Error::Cluster)?;
    let (given, orders) = channel();
    // From the beginning: a store that waits for its placement must see the end, too.
    thread("orders", move || listen(&given));
    let result = node::run_embedded(settings, |embedded| {
        thread("load", move || obey(&embedded, &orders));
    });
    result.map_err(|e| Error::Cluster(e.to_string()))
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work).expect("the system gives a thread");
}

/// Takes orders until the parent is gone, and ends the store then.
fn listen(given: &Sender<String>) {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        // Nobody carries them out any more when the store has ended.
        let _ = given.send(line);
    }
    signal(std::process::id().cast_signed(), Signal::TERM);
}

/// Carries out orders.
fn obey(embedded: &Embedded, orders: &Receiver<String>) {
    let mut driver = Driver::new(embedded.clone());
    for line in orders {
        match serde_json::from_str(&line) {
            Ok(Order::Groups) => say(&driver.groups()),
            Ok(Order::Run { work, in_flight, start_ns, end_ns }) => {
                say(&driver.run(work, in_flight, start_ns..end_ns));
            }
            Err(error) => eprintln!("not an order: {line}: {error}"),
        }
    }
}

fn say(answer: &impl Serialize) {
    let line = serde_json::to_string(answer).expect("plain structs are JSON");
    let mut out = std::io::stdout().lock();
    // A parent that is gone closes standard input as well, which ends this store.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
