//! How many operations of a load had succeeded when, for whoever looks at the servers meanwhile:
//! `throughput run --marks` writes it, `budget` reads it.
//!
//! The stores' own figures do not tell it: they count log entries, each with as many commands as
//! its round had.

use crate::error::Error;
use crate::load::Progress;
use flotilla_raftstore::{Clock, SystemClock};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::ops::Range;
use std::path::Path;

/// One line of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// Nanoseconds of the machine's boot clock.
    at_ns: u64,
    /// Operations that had succeeded by then, of those that count.
    ops: u64,
}

/// Now, in the time of the marks.
#[must_use]
pub fn now_ns() -> u64 {
    SystemClock.now().0
}

/// Appends where a load is.
pub fn write(file: &mut impl Write, progress: Progress) -> std::io::Result<()> {
    let mark = Mark { at_ns: now_ns(), ops: progress.ops };
    writeln!(file, "{}", serde_json::to_string(&mark).expect("plain structs are JSON"))
}

/// All marks of a load, in order.
#[derive(Debug)]
pub struct Marks(Vec<Mark>);

impl Marks {
    /// Reads the file as far as it is written.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text =
            std::fs::read_to_string(path).map_err(Error::system("cannot read the load's marks"))?;
        // The last line may be half a line still.
        Ok(Marks(text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()))
    }

    /// Whether operations count already.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.0.last().is_some_and(|mark| mark.ops > 0)
    }

    /// Operations within `window`; between two marks evenly. An error when the window does not
    /// lie between the first mark that counts and the last one.
    pub fn within(&self, window: Range<u64>) -> Result<f64, Error> {
        let both = self.at(window.start).zip(self.at(window.end));
        both.map(|(start, end)| end - start).filter(|ops| *ops > 0.0).ok_or_else(|| {
            Error::Cluster("the load did nothing in a window, or ended within it".to_owned())
        })
    }

    fn at(&self, at_ns: u64) -> Option<f64> {
        let pair = self.0.windows(2).find(|pair| at_ns <= pair[1].at_ns)?;
        let (from, to) = (pair[0], pair[1]);
        let part = at_ns.checked_sub(from.at_ns)? as f64 / (to.at_ns - from.at_ns).max(1) as f64;
        (to.ops > 0).then(|| from.ops as f64 + part * (to.ops - from.ops) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_of_a_window_are_told_between_two_marks_evenly() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "{\"at_ns\":0,\"ops\":0}\n{\"at_ns\":100,\"ops\":10}\n\
                    {\"at_ns\":200,\"ops\":40}\n{\"at_ns\":300,\"ops\":40}\n{\"at_n";
        std::fs::write(file.path(), text).unwrap();
        let marks = Marks::read(file.path()).unwrap();
        assert!(marks.counts());
        assert_eq!(marks.within(50..150).unwrap(), 20.0);
        assert_eq!(marks.within(100..300).unwrap(), 30.0);
        for window in [250..301, 200..300] {
            assert!(marks.within(window.clone()).is_err(), "{window:?}");
        }
    }

    #[test]
    fn a_mark_is_read_back() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let total = std::time::Duration::from_secs(1);
        let progress = |ops| Progress { elapsed: total, total, ops_per_s: 1.0, ops };
        write(&mut file, progress(0)).unwrap();
        assert!(!Marks::read(file.path()).unwrap().counts(), "warming up");
        write(&mut file, progress(7)).unwrap();
        assert!(Marks::read(file.path()).unwrap().counts());
    }
}
