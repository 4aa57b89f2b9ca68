//! The library's examples as processes: three of each, the leader killed, everything started again.
//! `make examples` shows what they say.

use flotilla_tests::process::{Process, command, free_ports, run_within, write_file};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

/// For what takes a few election timeouts on a machine that does nothing else.
const SOON: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
const MEMBERS: u16 = 3;

/// Three processes of an example. Members count from 1.
struct Service {
    example: &'static str,
    members: Vec<Process>,
    base_port: u16,
    // Last: the processes are gone before their folder is.
    dir: tempfile::TempDir,
}

impl Service {
    fn start(example: &'static str) -> Service {
        let dir = tempfile::Builder::new().prefix("flotilla-test-").tempdir().expect("a folder");
        let base_port = free_ports(2 * MEMBERS);
        let peers = |id: u16| {
            let (raft, service) = (base_port + id - 1, base_port + MEMBERS + id - 1);
            format!("{id} 127.0.0.1:{raft} 127.0.0.1:{service}\n")
        };
        let peers: String = (1..=MEMBERS).map(peers).collect();
        let file = write_file(dir.path(), "peers", &peers);
        println!("--- {example}, with the peers of {}:\n{peers}", file.display());
        let mut service = Service { example, members: Vec::new(), base_port, dir };
        for id in 1..=MEMBERS {
            service.members.push(service.process(id, true));
            service.members.last_mut().expect("pushed").start();
        }
        service
    }

    fn process(&self, id: u16, create: bool) -> Process {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let mut args: Vec<String> =
            ["--peers", &path("peers"), "--id", &id.to_string(), "--dir"].map(str::to_owned).into();
        args.push(path(&format!("member-{id}")));
        args.extend(create.then(|| "--create".to_owned()));
        let log = self.dir.path().join(format!("member-{id}.log"));
        Process::new(&format!("member {id}"), self.example, args, log)
    }

    fn kill(&mut self, id: u16) {
        println!("kill -9 of member {id}");
        self.members[usize::from(id) - 1].kill();
    }

    /// From its folder, as at every start but the first; killed before, if it runs.
    fn restart(&mut self, id: u16) {
        println!("member {id} starts again");
        self.members[usize::from(id) - 1].kill();
        let mut process = self.process(id, false);
        process.start();
        self.members[usize::from(id) - 1] = process;
    }

    /// What a member answers to a line, if it answers.
    fn ask(&self, id: u16, line: &str) -> Option<String> {
        let port = self.base_port + MEMBERS + id - 1;
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        stream.write_all(format!("{line}\n").as_bytes()).ok()?;
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next()?.ok()?;
        let more = match (line.starts_with("read "), first.strip_prefix("ok ")) {
            (true, Some(count)) => count.parse().expect("a count"),
            _ => 0,
        };
        let answer: Vec<String> =
            std::iter::once(first).chain(lines.take(more).map_while(Result::ok)).collect();
        Some(answer.join("\n"))
    }

    /// Asks as a client does: somebody, then whom he names, until it is done.
    fn ask_leader(&self, line: &str) -> (u16, String) {
        let mut id = 1;
        within(|| {
            let answer = self.ask(id, line);
            let named = answer.as_deref().and_then(|answer| answer.strip_prefix("redirect "));
            let Some(address) = named else {
                let done = answer.filter(|answer| answer.starts_with("ok")).map(|a| (id, a));
                id = id % MEMBERS + 1;
                return done;
            };
            let port: u16 = address.rsplit(':').next().and_then(|p| p.parse().ok()).expect(address);
            id = port - self.base_port - MEMBERS + 1;
            self.ask(id, line).filter(|answer| answer.starts_with("ok")).map(|answer| (id, answer))
        })
    }

    /// As [`Self::ask_leader`], shown; only the answer.
    fn show(&self, line: &str) -> String {
        let (id, answer) = self.ask_leader(line);
        println!("member {id}: {line} -> {answer}");
        answer
    }

    /// Waits until a member gives this answer.
    fn wait(&self, id: u16, line: &str, expected: &str) {
        let mut last = None;
        let deadline = Instant::now() + SOON;
        while last.as_deref() != Some(expected) {
            assert!(Instant::now() < deadline, "member {id}: {line}: {last:?}, not {expected}");
            last = self.ask(id, line);
            std::thread::sleep(POLL);
        }
        println!("member {id}: {line} -> {expected}");
    }

    fn others(&self, id: u16) -> impl Iterator<Item = u16> + use<> {
        (1..=MEMBERS).filter(move |other| *other != id)
    }
}

fn within<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < deadline, "not in time");
        std::thread::sleep(POLL);
    }
}

#[test]
fn the_counter_counts_on_when_its_leader_dies() {
    let mut service = Service::start("examples/counter");
    for count in 1..=10 {
        assert_eq!(service.show("increment 1"), format!("ok {count}"));
    }
    let (leader, _) = service.ask_leader("get");
    let address = format!("redirect 127.0.0.1:{}", service.base_port + MEMBERS + leader - 1);
    for id in service.others(leader) {
        service.wait(id, "increment 0", &address);
    }
    assert_eq!(service.show("snapshot"), "ok");

    let mut count = 10;
    for _ in 0..MEMBERS {
        let (leader, _) = service.ask_leader("get");
        service.kill(leader);
        for step in [5, -2] {
            count += step;
            assert_eq!(service.show(&format!("increment {step}")), format!("ok {count}"));
        }
        service.restart(leader);
    }
    for id in 1..=MEMBERS {
        service.kill(id);
    }
    for id in 1..=MEMBERS {
        service.restart(id);
    }
    assert_eq!(service.show("get"), format!("ok {count}"));
    let refused = service.ask(1, "increment much").expect("an answer");
    assert_eq!(refused, "error step 'much': must be a whole number");
    assert!(service.ask(1, "decrement").expect("an answer").starts_with("error 'decrement': say"));
}

#[test]
fn the_commit_log_is_its_own_data_on_every_member() {
    let mut service = Service::start("examples/commit_log");
    let append = |service: &Service, numbers: std::ops::Range<u64>| {
        for number in numbers {
            let topic = if number.is_multiple_of(3) { "orders" } else { "payments" };
            let answer = service.show(&format!("append {topic} record {number}"));
            assert_eq!(answer, format!("ok {number}"));
        }
    };
    append(&service, 0..20);
    let check = |service: &Service, end: u64| {
        let all: Vec<String> = (0..end).step_by(3).map(|number| number.to_string()).collect();
        let orders = format!("ok {}", all.join(" "));
        for id in 1..=MEMBERS {
            service.wait(id, "queue orders", &orders);
            service.wait(id, "get 3", "ok orders record 3");
            service.wait(id, "read 4 2", "ok 2\npayments record 4\npayments record 5");
            service.wait(id, "rebuild", &format!("ok {end} records"));
        }
    };
    check(&service, 20);
    assert_eq!(service.show("end"), "ok 20");

    let (master, _) = service.ask_leader("end");
    let role = |service: &Service, id| service.ask(id, "role").expect("it runs");
    assert!(role(&service, master).starts_with("ok master in term "));
    for id in service.others(master) {
        let slave = format!("ok slave of {master} in term ");
        within(|| role(&service, id).starts_with(&slave).then_some(()));
    }
    service.kill(master);
    append(&service, 20..30);
    let (next, _) = service.ask_leader("end");
    assert!(role(&service, next).starts_with("ok master in term "));
    service.restart(master);
    let slave = format!("ok slave of {next} in term ");
    within(|| service.ask(master, "role").filter(|role| role.starts_with(&slave)));
    check(&service, 30);

    assert_eq!(service.show("trim 12"), "ok 12");
    for id in 1..=MEMBERS {
        service.wait(id, "get 11", "error record 11: from 12 to before 30 are here");
        service.wait(id, "get 12", "ok orders record 12");
        service.restart(id);
        service.wait(id, "rebuild", "ok 18 records");
    }
}

/// The first start of a counter that cannot be: its exit code is 2, and its last line says why.
fn refused(dir: &Path, peers: &str, more: &[&str]) -> String {
    let file = write_file(dir, "peers", peers);
    let mut command = command("examples/counter");
    command.arg("--peers").arg(file).arg("--dir").arg(dir.join("data")).args(more);
    let Output { status, stderr, .. } = run_within(command, Duration::from_secs(30));
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(2), "{said}");
    said
}

#[test]
fn wrong_arguments_and_peers_are_explained() {
    let dir = tempfile::tempdir().expect("a folder");
    let base = free_ports(2);
    let good = format!("1 127.0.0.1:{base} 127.0.0.1:{}\n", base + 1);
    for (peers, args, expected) in [
        (&*good, &["--id", "1"][..], "--create"),
        (&good, &["--id", "9", "--create"], "--id 9: the file of peers has [1]"),
        (&good, &["--id", "one"], "'one'"),
        (&good, &["--create"], "--id"),
        ("1 here 127.0.0.1:1\n", &["--id", "1"], "line 1: raft address 'here': must be IP:PORT"),
        ("x 127.0.0.1:1 127.0.0.1:2\n", &["--id", "1"], "line 1: id 'x': must be a whole number"),
        ("1 127.0.0.1:1\n", &["--id", "1"], "line 1: '1 127.0.0.1:1': write ID RAFT SERVICE"),
        (&good.repeat(2), &["--id", "1"], "line 2: id '1': must be there once"),
    ] {
        let said = refused(dir.path(), peers, args);
        assert!(said.contains(expected), "{args:?}: {said}");
    }
}
