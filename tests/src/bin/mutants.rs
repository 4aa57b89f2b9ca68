//! `mutants`: plants each known bug in turn and lets the simulator look for it.
//!
//! Exits with 1 when one is not found within its number of seeds.

use clap::Parser;
use flotilla_tests::mutants::{Hunt, MUTANTS, Mutant, hunt};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// Hunts planted bugs with the simulator.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Only bugs whose name contains one of these.
    names: Vec<String>,
    /// Bugs hunted at a time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    std::panic::set_hook(Box::new(|_| {})); // A panic is one way to be found.
    let asked =
        |m: &Mutant| args.names.is_empty() || args.names.iter().any(|name| m.name.contains(name));
    let mutants: Vec<Mutant> = MUTANTS.iter().copied().filter(asked).collect();
    println!("{:<30} {:>6} {:>6} {:>6}  found by", "planted bug", "seeds", "limit", "CPU s");
    let (mut missed, mut times) = (0, Vec::new());
    for hunt in hunt_all(&mutants, args.threads) {
        missed += usize::from(!show(&hunt));
        times.push(hunt.cpu);
    }
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64();
    println!("{} planted, {missed} not found; median {median:.1} CPU-seconds", mutants.len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints one line; gives whether it was found.
fn show(Hunt { mutant, found, cpu }: &Hunt) -> bool {
    let (seeds, by) = match found {
        Some((seed, violation)) => (seed.to_string(), one_line(violation)),
        None => ("-".to_owned(), format!("NOT FOUND: {}", mutant.mistake)),
    };
    let (name, limit, cpu) = (mutant.name, mutant.seeds_max, cpu.as_secs_f64());
    println!("{name:<30} {seeds:>6} {limit:>6} {cpu:>6.1}  {by}");
    found.is_some()
}

fn one_line(violation: &str) -> String {
    const SHOWN: usize = 90;
    let first = violation.lines().next().unwrap_or_default();
    if first.chars().count() <= SHOWN {
        return first.to_owned();
    }
    first.chars().take(SHOWN - 1).chain(std::iter::once('…')).collect()
}

/// Hunts on a few threads; results come as they are ready.
fn hunt_all(mutants: &[Mutant], threads: usize) -> impl Iterator<Item = Hunt> {
    let (sender, results) = mpsc::channel();
    let next = AtomicUsize::new(0);
    let mutants = mutants.to_vec();
    std::thread::spawn(move || {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let (sender, next, mutants) = (sender.clone(), &next, &mutants);
                scope.spawn(move || {
                    while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let _ = sender.send(hunt(*mutant));
                    }
                });
            }
        });
    });
    results.into_iter()
}
