//! Sampled stacks, merged by name into a tree.

use crate::error::Error;
use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;

/// What `perf script` is asked for, and what [`Frame::read`] understands.
pub const FIELDS: &str = "comm,period,ip,sym";

/// A function as it was called on one path. The root is the process, its callees the threads.
#[derive(Debug, Default)]
pub struct Frame {
    /// Nanoseconds of CPU in it and in all that it called.
    pub total_ns: u64,
    /// The part in the function itself.
    pub own_ns: u64,
    /// What it called, by name.
    pub callees: BTreeMap<String, Frame>,
}

impl Frame {
    /// Reads samples as `perf script` prints [`FIELDS`]: a line with thread and nanoseconds, the
    /// stack as indented lines of address and function, the innermost first, and an empty line.
    pub fn read(script: impl BufRead) -> Result<Self, Error> {
        let mut root = Frame::default();
        let mut sample: Option<(Vec<String>, u64)> = None;
        for line in script.split(b'\n') {
            let line = line.map_err(Error::system("cannot read the samples"))?;
            let line = String::from_utf8_lossy(&line);
            let text = line.trim();
            if text.is_empty() {
                sample.take().into_iter().for_each(|(stack, ns)| root.add(&stack, ns));
            } else if line.starts_with(char::is_whitespace) {
                let function = text.split_once(' ').map_or("[unknown]", |(_, name)| name.trim());
                sample.iter_mut().for_each(|(stack, _)| stack.push(function.to_owned()));
            } else {
                sample.take().into_iter().for_each(|(stack, ns)| root.add(&stack, ns));
                let head = text.rsplit_once(' ').and_then(|(thread, ns)| {
                    Some((vec![thread.trim_end().to_owned()], ns.parse().ok()?))
                });
                sample = Some(head.ok_or_else(|| {
                    Error::Cluster(format!("perf script printed `{text}`: not thread and period"))
                })?);
            }
        }
        sample.take().into_iter().for_each(|(stack, ns)| root.add(&stack, ns));
        if root.total_ns == 0 {
            return Err(Error::Cluster("perf took no sample: did the process idle?".to_owned()));
        }
        Ok(root)
    }

    /// Adds a sample: the thread, then its functions from the innermost outwards.
    fn add(&mut self, stack: &[String], ns: u64) {
        let Some((thread, functions)) = stack.split_first() else { return };
        let mut frame = self;
        frame.total_ns += ns;
        for name in std::iter::once(thread).chain(functions.iter().rev()) {
            frame = frame.callees.entry(name.clone()).or_default();
            frame.total_ns += ns;
        }
        frame.own_ns += ns;
    }

    /// Functions by their own share of the samples, in percent.
    pub fn top(&self, count: usize) -> Vec<(&str, f64)> {
        let mut own = HashMap::new();
        self.sum_own(&mut own);
        let mut own: Vec<(&str, u64)> = own.into_iter().collect();
        own.sort_by_key(|(name, ns)| (std::cmp::Reverse(*ns), *name));
        let all = self.total_ns as f64;
        own.into_iter().take(count).map(|(name, ns)| (name, ns as f64 * 100.0 / all)).collect()
    }

    fn sum_own<'a>(&'a self, own: &mut HashMap<&'a str, u64>) {
        for (name, frame) in &self.callees {
            *own.entry(name).or_default() += frame.own_ns;
            frame.sum_own(own);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "\
tokio worker    30 \n\t  97b11 read\n\t  989c8 <[T; 4] as a::B<&C>>::run\n\n\
tokio worker    10 \n\t  989c8 <[T; 4] as a::B<&C>>::run\n\n\
log     60 \n\tffffffff8168e0a2 read\n\t 2 sync\n\t  3 [unknown]\n\nlog 5 \n";

    #[test]
    fn samples_merge_by_name_from_the_thread_inwards() {
        let root = Frame::read(SCRIPT.as_bytes()).unwrap();
        assert_eq!(root.total_ns, 105);
        assert_eq!(root.callees.keys().collect::<Vec<_>>(), ["log", "tokio worker"]);
        let run = &root.callees["tokio worker"].callees["<[T; 4] as a::B<&C>>::run"];
        assert_eq!((run.total_ns, run.own_ns, run.callees["read"].own_ns), (40, 10, 30));
        let log = &root.callees["log"];
        assert_eq!((log.total_ns, log.own_ns), (65, 5), "the last sample has no stack");
        assert_eq!(log.callees["[unknown]"].callees["sync"].callees["read"].own_ns, 60);
    }

    #[test]
    fn shares_are_of_the_functions_own_samples() {
        let script = "net 30 \n\t1 read\n\t2 main\n\nnet 10 \n\t2 main\n\nlog 60 \n\t1 read\n\n";
        let root = Frame::read(script.as_bytes()).unwrap();
        assert_eq!(root.top(2), [("read", 90.0), ("main", 10.0)]);
    }

    #[test]
    fn what_is_not_a_sample_is_refused() {
        let refused = |script: &str| Frame::read(script.as_bytes()).unwrap_err().to_string();
        assert!(refused("").contains("no sample"));
        assert!(refused("net many \n\t1 read\n").contains("`net many`"));
    }
}
