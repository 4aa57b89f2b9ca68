//! What tests of running stores share.

use bytes::Bytes;
use flotilla_raftstore::{Fatal, Outcome, Reply};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// For whatever a store or a cluster does within a few election timeouts on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// Submits a request and waits for its answer.
pub fn ask(submit: impl FnOnce(Reply)) -> Outcome {
    let (reply, pending) = Reply::pending();
    submit(reply);
    pending.wait(SOON).expect("every request is answered")
}

/// Tries until there is a value.
pub fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(start.elapsed() < SOON, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A snapshot of commands: one a line.
pub fn save(commands: &[Bytes], out: &mut dyn Write) -> Result<(), Fatal> {
    for command in commands {
        let line = [&command[..], b"\n"].concat();
        out.write_all(&line).map_err(|e| Fatal::new("save", e))?;
    }
    Ok(())
}

/// The commands of a snapshot.
pub fn load(from: &mut dyn Read) -> Result<Vec<Bytes>, Fatal> {
    let mut text = String::new();
    from.read_to_string(&mut text).map_err(|e| Fatal::new("load", e))?;
    Ok(text.lines().map(|line| Bytes::from(line.to_owned())).collect())
}
