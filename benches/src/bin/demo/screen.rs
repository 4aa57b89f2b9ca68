//! What the demo shows: numbered steps, facts under them, and a line that moves meanwhile.

use flotilla_benches::Error;
use flotilla_benches::load::Progress;
use flotilla_benches::report::{Row, thousands};
use flotilla_benches::table::Observer;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Where standard error is no terminal, progress is a plain line this often.
const PLAIN_INTERVAL: Duration = Duration::from_secs(3);

/// The terminal, or a log file in its place.
pub struct Screen {
    bar: ProgressBar,
    terminal: bool,
    told: Instant,
    step: usize,
    steps: usize,
    began: Instant,
}

impl Screen {
    /// For a demo of `steps` steps.
    pub fn new(steps: usize) -> Self {
        let style = ProgressStyle::with_template("      {spinner} {msg}")
            .expect("the template is a legal constant");
        let bar = ProgressBar::new_spinner().with_style(style);
        let terminal = std::io::stderr().is_terminal();
        let now = Instant::now();
        Screen { bar, terminal, told: now, step: 0, steps, began: now }
    }

    /// Time since the demo began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Begins the next step.
    pub fn step(&mut self, title: &str) {
        self.quiet();
        self.step += 1;
        println!("\n[{}/{}] {title}", self.step, self.steps);
    }

    /// Says a fact.
    pub fn say(&self, text: &str) {
        self.bar.suspend(|| println!("      {text}"));
    }

    /// Says facts from another thread.
    pub fn printer(&self) -> impl Fn(&str) + Send + 'static {
        let bar = self.bar.clone();
        move |text| bar.suspend(|| text.lines().for_each(|line| println!("      {line}")))
    }

    /// Says what goes on now; replaced by the next call.
    pub fn busy(&mut self, text: impl Into<String>) {
        let text = text.into();
        if self.terminal {
            self.bar.enable_steady_tick(Duration::from_millis(100));
            self.bar.set_message(text);
        } else if self.told.elapsed() > PLAIN_INTERVAL {
            self.told = Instant::now();
            println!("      … {text}");
        }
    }

    /// Takes the moving line away, for a child that draws its own.
    pub fn quiet(&self) {
        self.bar.disable_steady_tick();
        self.bar.set_message("");
        self.bar.suspend(|| ());
    }

    /// Takes the moving line away for good.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// Shows rows while they are measured, and keeps them.
pub struct Rows<'a> {
    screen: &'a mut Screen,
    /// The finished ones.
    pub rows: Vec<Row>,
}

impl<'a> Rows<'a> {
    /// None yet.
    pub fn new(screen: &'a mut Screen) -> Self {
        Rows { screen, rows: Vec::new() }
    }
}

impl Observer for Rows<'_> {
    fn starting(&mut self, text: &str) {
        self.screen.busy(text);
    }

    fn running(&mut self, row: &str, progress: Progress) {
        let rate = thousands(progress.ops_per_s as u64);
        let seconds = progress.elapsed.as_secs_f64();
        let total = progress.total.as_secs_f64();
        self.screen.busy(format!("{row}: {rate} ops/s, {seconds:.0} of {total:.0} s"));
    }

    fn finished(&mut self, row: Row, _pass: usize) -> Result<(), Error> {
        for line in row.text().lines() {
            self.screen.say(line);
        }
        self.rows.push(row);
        Ok(())
    }

    fn failed(&mut self, rows: &str, error: &Error) {
        self.screen.say(&format!("{rows}: {error}"));
    }
}
