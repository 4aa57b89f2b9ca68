//! What can go wrong around a measurement; operations' own errors are counted, not raised.

use std::path::PathBuf;

/// Why a run ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Settings that do not fit together: wrong usage.
    #[error("{0}")]
    Invalid(String),
    /// The cluster did not start, answer or stop as it should.
    #[error("{0}")]
    Cluster(String),
    /// A program that should lie beside this one does not.
    #[error("{} is missing: build it first with `cargo build --release --workspace --bins`", .0.display())]
    NoProgram(PathBuf),
    /// The operating system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What it said.
        source: std::io::Error,
    },
    /// `/proc` did not give what it should.
    #[error("cannot read /proc: {0}")]
    Proc(#[from] procfs::ProcError),
}

impl Error {
    /// For `map_err`: the operating system's refusal of `what`.
    pub fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::System { what, source }
    }
}
