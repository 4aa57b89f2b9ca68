//! What programs that await have in common: the runtime, the end that somebody asks for, exit codes, a
//! file of JSON lines.

use crate::error::Error;
use crate::interrupt::or_interrupted;
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// What is left of `work` may take so long to end: it stops clusters.
const END_MAX: Duration = Duration::from_secs(25);

/// Runs `work` until it is done or the end is asked for; says why it failed.
///
/// 0 done, 1 no result, 2 wrong usage.
pub fn run(name: &str, work: impl Future<Output = Result<(), Error>>) -> ExitCode {
    // Half of the cores: servers run beside it, and fewer threads wake each other less.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.div_ceil(2))
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(or_interrupted(work));
            runtime.shutdown_timeout(END_MAX);
            result
        }
        Err(error) => Err(Error::system("cannot start the runtime")(error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::from(if matches!(error, Error::Invalid(_)) { 2 } else { 1 })
        }
    }
}

/// A file that gets one JSON object a line, or none.
#[derive(Debug)]
pub struct JsonLines(Option<File>);

impl JsonLines {
    /// Goes on where the file ends.
    pub fn append(path: Option<&Path>) -> Result<Self, Error> {
        let open = |path: &Path| {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            file.map_err(Error::system(format!("cannot write --json {}", path.display())))
        };
        Ok(JsonLines(path.map(open).transpose()?))
    }

    /// Writes one.
    pub fn write(&self, line: &Value) -> Result<(), Error> {
        let Some(mut file) = self.0.as_ref() else { return Ok(()) };
        writeln!(file, "{line}").map_err(Error::system("cannot write --json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_are_added_to_what_is_there() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for number in 1..=2 {
            JsonLines::append(Some(file.path())).unwrap().write(&json!({ "n": number })).unwrap();
        }
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "{\"n\":1}\n{\"n\":2}\n");
        JsonLines::append(None).unwrap().write(&json!(1)).unwrap();
        let error = JsonLines::append(Some(Path::new("/no/such/folder/file"))).unwrap_err();
        assert!(error.to_string().contains("/no/such/folder/file"), "{error}");
    }
}
