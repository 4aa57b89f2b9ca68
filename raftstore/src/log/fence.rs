//! The first failed write of a log is its last: memory and disk may differ since.

use crate::error::Fatal;

/// What a log's writes need, behind the fence that the first failed one puts up.
#[derive(Default)]
pub(super) struct Fenced<T> {
    /// For reads and tests; writes go through [`Fenced::write`].
    pub inner: T,
    failure: Option<Fatal>,
}

impl<T> Fenced<T> {
    /// Runs `write`, unless one failed before; remembers the first failure.
    pub fn write(&mut self, write: impl FnOnce(&mut T) -> Result<(), String>) -> Result<(), Fatal> {
        let fatal = |reason: String| Fatal::new("write the log", reason);
        if let Some(first) = &self.failure {
            return Err(fatal(format!("refused after an earlier failure: {first}")));
        }
        write(&mut self.inner).map_err(|reason| self.failure.insert(fatal(reason)).clone())
    }
}
