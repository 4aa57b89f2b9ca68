//! Log lines on standard error, and what the process says last.

use crate::config::LogFormat;
use flotilla_raftstore::Fatal;
use tracing_subscriber::EnvFilter;

/// Checks a filter of log lines, as `--log-level` takes it.
pub fn level(text: &str) -> Result<String, String> {
    filter(text).map(|_| text.to_owned())
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    // Of the log's engine an operator needs to hear what is wrong only; `level` may say otherwise.
    EnvFilter::builder().parse(format!("raft_engine=warn,{level}")).map_err(|e| {
        format!("'{level}': {e}; use error, warn, info, debug, trace or target=level,…")
    })
}

/// Starts logging with a filter such as `info` or `info,flotilla_raftstore=debug`.
pub fn start(level: &str, format: LogFormat) -> Result<(), String> {
    let filter = filter(level).map_err(|e| format!("--log-level {e}"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    }
    .map_err(|e| format!("logging: {e}"))
}

/// Ends the process after an error that it must not survive, with one clear last line.
///
/// Called by the thread that met the error; no destructor runs, as after a power cut.
pub fn end_fatally(fatal: &Fatal) -> ! {
    eprintln!(
        "{fatal}; the store stops; check the device and the file system, then start it again: \
         it recovers what is on disk, and nothing acknowledged depends on what failed"
    );
    std::process::exit(1);
}

/// A panic is a bug: one line instead of a trace, and the process ends, because a thread that
/// is missing would leave the rest waiting.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let what = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        eprintln!(
            "fatal: a bug in kvserver, thread {thread} at {place}: {}; the store stops; start it \
             again and report this line",
            what.replace('\n', " ")
        );
        std::process::abort();
    }));
}
