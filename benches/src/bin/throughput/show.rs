//! Progress on the terminal while rows run; nothing where there is no terminal.

use flotilla_benches::Error;
use flotilla_benches::load::Progress;
use flotilla_benches::marks;
use flotilla_benches::report::{Row, thousands};
use flotilla_benches::table::Observer;
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::time::Duration;

const BAR: &str = "{spinner} {msg} {wide_bar} {percent}%";

/// One bar, used for whatever runs now.
pub struct Show(ProgressBar);

impl Show {
    /// An empty bar.
    pub fn new() -> Self {
        let style = ProgressStyle::with_template(BAR).expect("the template is a legal constant");
        let bar = ProgressBar::new(1).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Show(bar)
    }

    /// Takes the bar off the terminal.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }

    /// A cluster is being started.
    pub fn starting(&mut self, text: &str) {
        self.0.reset();
        self.0.set_message(text.to_owned());
        if self.0.is_hidden() {
            eprintln!("{text}");
        }
    }

    /// A load runs.
    pub fn running(&mut self, row: &str, progress: Progress) {
        self.0.set_length(progress.total.as_millis() as u64);
        self.0.set_position(progress.elapsed.min(progress.total).as_millis() as u64);
        let phase = if progress.ops_per_s > 0.0 {
            format!("{} ops/s", thousands(progress.ops_per_s as u64))
        } else {
            "warming up".to_owned()
        };
        self.0.set_message(format!("{row}: {phase}"));
    }

    /// Prints above the bar.
    pub fn print(&self, text: &str) {
        self.0.suspend(|| print!("{text}"));
    }
}

/// Shows the progress of a single row.
pub struct Watch<'a> {
    pub show: &'a mut Show,
    /// Where to tell how far the load is.
    pub marks: Option<File>,
}

impl Observer for Watch<'_> {
    fn starting(&mut self, text: &str) {
        self.show.starting(text);
    }

    fn running(&mut self, row: &str, progress: Progress) {
        if let Some(marks) = &mut self.marks {
            // Who reads them sees where they end.
            let _ = marks::write(marks, progress);
        }
        self.show.running(row, progress);
    }

    fn finished(&mut self, row: Row, _pass: usize) -> Result<(), Error> {
        self.show.print(&row.text());
        Ok(())
    }

    fn failed(&mut self, rows: &str, error: &Error) {
        self.show.print(&format!("{rows}: {error}\n"));
    }
}
