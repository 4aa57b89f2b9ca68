//! How the tool ends: exit codes and the error object.

use std::io;
use std::path::Path;

use flotilla_client::Error;
use serde_json::json;

/// Every way to end other than exit code 0.
#[derive(Debug)]
pub enum Failure {
    /// A key that does not exist; said already.
    NotFound,
    /// Wrong arguments or input.
    Usage(String),
    /// The cluster's answer, or that there is none.
    Client(Error),
    /// The same, with what the tool was doing.
    During(String, Error),
    /// Whoever read standard output is gone; nobody is left to tell.
    BrokenPipe,
}

impl Failure {
    /// An input or output file that cannot be used.
    pub fn file(path: &Path, error: &io::Error) -> Self {
        Failure::Usage(format!("{}: {error}", path.display()))
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::BrokenPipe => 0,
            Failure::NotFound => 1,
            Failure::Usage(_) => 2,
            Failure::Client(error) | Failure::During(_, error) => match error {
                Error::Invalid { .. } => 2,
                Error::NotApplied { .. } => 3,
                Error::Unknown { .. } => 4,
                Error::Unavailable { .. } => 5,
            },
        }
    }

    /// One line for standard error, `None` if there is nothing to say.
    pub fn line(&self, as_json: bool) -> Option<String> {
        let (kind, message, applied) = match self {
            Failure::NotFound | Failure::BrokenPipe => return None,
            Failure::Usage(message) => ("invalid", message.clone(), Some(false)),
            Failure::Client(error) => (error.kind(), error.message().to_owned(), error.applied()),
            Failure::During(what, error) => {
                (error.kind(), format!("{what}: {}", error.message()), error.applied())
            }
        };
        if as_json {
            let object = json!({"kind": kind, "message": message, "applied": applied});
            return Some(json!({ "error": object }).to_string());
        }
        Some(match self {
            Failure::Usage(_) => format!("kv: {message}"),
            Failure::Client(Error::Unknown { .. }) | Failure::During(_, Error::Unknown { .. }) => {
                format!("kv: outcome unknown, read before writing again: {message}")
            }
            _ => format!("kv: {kind}: {message}"),
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Client(error)
    }
}

/// Only standard output is written without naming a file.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
            _ => Failure::Usage(format!("standard output: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use flotilla_client::Refusal;

    use super::*;

    #[test]
    fn exit_codes_and_error_objects_follow_the_contract() {
        let message = || "m".to_owned();
        let busy = Error::NotApplied { kind: Refusal::Busy, message: message() };
        let cases = [
            (Error::Invalid { message: message() }, 2, "invalid", "false"),
            (busy, 3, "busy", "false"),
            (Error::Unknown { message: message() }, 4, "unknown", "null"),
            (Error::Unavailable { message: message() }, 5, "unavailable", "false"),
        ];
        for (error, code, kind, applied) in cases {
            let failure = Failure::from(error);
            assert_eq!(failure.exit_code(), code);
            let expected =
                format!(r#"{{"error":{{"kind":"{kind}","message":"m","applied":{applied}}}}}"#);
            assert_eq!(failure.line(true).unwrap(), expected);
        }
        assert_eq!(Failure::NotFound.exit_code(), 1);
        assert_eq!(Failure::NotFound.line(true), None);
    }
}
