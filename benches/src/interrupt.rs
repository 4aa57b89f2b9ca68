//! The end that somebody asks for: SIGTERM, SIGINT, SIGHUP (a terminal is closed), or the end of
//! the parent process.
//!
//! Programs that await use [`or_interrupted`]; programs that block wait through an [`Interrupt`].
//! Either way the work is left by an error, so that what it owns ends its children and removes its
//! folders.

use crate::error::Error;
use flotilla_kvserver::process::Stop;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ties a child's life to this process: it sees the end of the pipe that is its standard input,
/// however this process ends. For servers, and for programs that use this module.
pub fn tie(command: &mut Command) {
    command.env(flotilla_kvserver::process::PARENT_PIPE, "1").stdin(Stdio::piped());
}

/// `work`, or an error as soon as the end is asked for. What `work` owns is dropped with it.
pub async fn or_interrupted<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let mut signals = Signals::listen()?;
    tokio::select! {
        result = work => result,
        reason = signals.asked() => Err(interrupted(reason)),
    }
}

/// All that asks for the end.
struct Signals {
    stop: Stop,
    hangup: Signal,
}

impl Signals {
    /// Listens from now on; inside a Tokio runtime.
    fn listen() -> Result<Self, Error> {
        let both = Stop::listen().and_then(|stop| Ok((stop, signal(SignalKind::hangup())?)));
        let (stop, hangup) = both.map_err(Error::system("cannot listen to signals"))?;
        Ok(Signals { stop, hangup })
    }

    async fn asked(&mut self) -> &'static str {
        tokio::select! {
            reason = self.stop.requested() => reason,
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}

fn interrupted(reason: &str) -> Error {
    Error::Cluster(format!("interrupted: {reason}"))
}

/// For programs that block; see the module.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<(Mutex<Option<&'static str>>, Condvar)>);

impl Interrupt {
    /// Listens from now on, in a thread of its own.
    pub fn listen() -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::system("cannot start the runtime"))?;
        let mut signals = runtime.block_on(async { Signals::listen() })?;
        let interrupt = Interrupt::default();
        let told = interrupt.clone();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || told.ask(runtime.block_on(signals.asked())))
            .map_err(Error::system("cannot start a thread"))?;
        Ok(interrupt)
    }

    /// Asks for the end.
    pub fn ask(&self, reason: &'static str) {
        let (asked, changed) = &*self.0;
        *asked.lock().expect("no holder panics") = Some(reason);
        changed.notify_all();
    }

    /// Sleeps; an error as soon as the end is asked for.
    pub fn sleep(&self, time: Duration) -> Result<(), Error> {
        let (asked, changed) = &*self.0;
        let guard = asked.lock().expect("no holder panics");
        let (asked, _) = changed
            .wait_timeout_while(guard, time, |asked| asked.is_none())
            .expect("no holder panics");
        asked.map_or(Ok(()), |reason| Err(interrupted(reason)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_sleep_ends_with_an_error_when_the_end_is_asked_for() {
        let interrupt = Interrupt::default();
        interrupt.sleep(Duration::from_millis(1)).unwrap();
        let began = Instant::now();
        let other = interrupt.clone();
        let asking = std::thread::spawn(move || other.ask("SIGTERM"));
        let error = interrupt.sleep(Duration::from_secs(60)).unwrap_err().to_string();
        asking.join().unwrap();
        assert_eq!(error, "interrupted: SIGTERM");
        assert!(began.elapsed() < Duration::from_secs(30));
        assert!(interrupt.sleep(Duration::ZERO).is_err(), "it stays asked for");
    }
}
