//! A measuring program that is told to end leaves nothing behind.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(90);

/// Polls until `found` gives something; panics when it never does.
fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < until, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Processes below `parent`, their children among them.
fn descendants(parent: i32) -> BTreeSet<i32> {
    let all: Vec<(i32, i32)> = procfs::process::all_processes()
        .unwrap()
        .filter_map(|process| process.ok()?.stat().ok())
        .map(|stat| (stat.pid, stat.ppid))
        .collect();
    let mut found = BTreeSet::from([parent]);
    loop {
        let more = all.iter().filter(|(_, parent)| found.contains(parent)).map(|(pid, _)| *pid);
        let next: BTreeSet<i32> = more.chain(found.iter().copied()).collect();
        if next.len() == found.len() {
            found.remove(&parent);
            return found;
        }
        found = next;
    }
}

fn spawn(program: &str, line: &str, dir: &Path) -> (Child, i32) {
    let child = Command::new(program)
        .args(line.split_whitespace())
        .env("TMPDIR", dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    (child, pid)
}

/// Starts `program` and waits until it has `children` processes below it.
fn start(program: &str, line: &str, dir: &Path, children: usize) -> (Child, BTreeSet<i32>) {
    let (child, pid) = spawn(program, line, dir);
    let found = wait_for("children", || {
        let found = descendants(pid);
        (found.len() >= children).then_some(found)
    });
    (child, found)
}

fn alive(pids: &BTreeSet<i32>) -> Vec<i32> {
    let lives = |pid: &i32| {
        let stat = procfs::process::Process::new(*pid).and_then(|process| process.stat());
        stat.is_ok_and(|stat| stat.state != 'Z')
    };
    pids.iter().copied().filter(lives).collect()
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A table is a playground with its four servers; `inside` starts its four by itself.
const RUNS: [(&str, &str, usize); 2] = [
    (env!("CARGO_BIN_EXE_inside"), "--storage memory --seconds 300", 4),
    (env!("CARGO_BIN_EXE_throughput"), "table --rows one-get --seconds 300", 5),
];

#[test]
fn sigterm_and_sighup_end_children_and_remove_folders() {
    for (program, line, children) in RUNS {
        for asked in [rustix::process::Signal::TERM, rustix::process::Signal::HUP] {
            let dir = tempfile::tempdir().unwrap();
            let (mut child, children) = start(program, line, dir.path(), children);
            signal(&child, asked);
            let status = wait_for("its end", || child.try_wait().unwrap());
            assert_eq!(status.code(), Some(1), "{program}: an interrupted run is no result");
            assert_eq!(alive(&children), [], "{program}");
            let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
            assert!(left.is_empty(), "{program} left {left:?}");
        }
    }
}

#[test]
fn children_end_when_their_parent_is_killed() {
    for (program, line, children) in RUNS {
        let dir = tempfile::tempdir().unwrap();
        let (mut child, children) = start(program, line, dir.path(), children);
        child.kill().unwrap();
        child.wait().unwrap();
        wait_for(program, || alive(&children).is_empty().then_some(()));
    }
}

/// They watch no pipe of their parent's, as our servers do.
#[cfg(feature = "peers")]
#[test]
fn nodes_of_another_system_end_when_their_parent_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let line = "peers --seconds 0.1 --warmup 0";
    let (mut child, pid) = spawn(env!("CARGO_BIN_EXE_throughput"), line, dir.path());
    let is_node = |pid: &i32| {
        let stat = procfs::process::Process::new(*pid).and_then(|process| process.stat());
        stat.is_ok_and(|stat| stat.comm == "etcd")
    };
    let nodes = wait_for("three nodes", || {
        let nodes: BTreeSet<i32> = descendants(pid).into_iter().filter(is_node).collect();
        (nodes.len() == 3).then_some(nodes)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the nodes' end", || alive(&nodes).is_empty().then_some(()));
}
