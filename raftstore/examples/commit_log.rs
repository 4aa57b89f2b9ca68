//! An embedded commit log, as a message broker wants it: the replicated log itself is the data.
//!
//! ```text
//! $ commit_log --peers peers --id 1 --dir log-1 --create     # and 2, and 3: see the counter
//! $ nc 127.0.0.1 7402
//! append orders first order
//! ok 0                         its number: records count from 0, without gaps, in all topics
//! get 0
//! ok orders first order        read out of the committed log: there is no second copy
//! read 0 10                    up to ten records from number 0 on, a line each
//! end                          the next record's number, as of now: only the leader knows
//! queue orders                 the numbers of a topic's records: the consume queue
//! rebuild                      the same from nothing but the log, compared
//! trim 100                     records before number 100 may go from the logs
//! role                         what the callbacks made of this broker
//! master in term 3
//! ```
//!
//! The state is only what is derived from the log: where each record is, and the consume queues. The log
//! keeps what [`StateMachine::log_needed`] names, from the first record that was not trimmed on.
//! A member that lagged so far that it got a snapshot holds the records behind it; the others hold all.

mod member;

use bytes::Bytes;
use flotilla_raftstore::{
    ApplyEntry, ClusterId, Fatal, GroupApply, GroupId, LeaderStop, LogPosition, ReadLogError,
    ReplicaId, StateMachine, Store,
};
use member::{GROUP, Member};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::ExitCode;

/// Any number that is no other service's.
const CLUSTER: ClusterId = ClusterId(0x636f_6d6d_6974_206c_6f67_2065_7861_6d02);
/// Bytes of the log that are read at a time.
const READ_BYTES: usize = 1 << 20;

/// All that is derived from the log; rebuilt from it, it is the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Index {
    /// The last entry that is in it.
    applied: u64,
    /// The next record's number.
    next: u64,
    /// Number of the first record in each entry that has records, and the entry's index.
    places: Vec<(u64, u64)>,
    /// The consume queue of each topic: the numbers of its records.
    queues: BTreeMap<String, Vec<u64>>,
}

/// `+TOPIC TEXT` is a record, `-NUMBER` trims.
fn record(command: &Bytes) -> Option<&str> {
    std::str::from_utf8(command).ok()?.strip_prefix('+')
}

impl Index {
    /// Takes a command of the entry at `index`; the answer is the record's number.
    fn take(&mut self, index: u64, command: &Bytes) -> Result<u64, String> {
        if let Some(record) = record(command) {
            if self.places.last().is_none_or(|(_, last)| *last < index) {
                self.places.push((self.next, index));
            }
            let topic = record.split(' ').next().unwrap_or_default();
            self.queues.entry(topic.to_owned()).or_default().push(self.next);
            self.next += 1;
            return Ok(self.next - 1);
        }
        let trim = std::str::from_utf8(command).ok().and_then(|text| text.strip_prefix('-'));
        let number = trim.and_then(|digits| digits.parse().ok());
        let number = number.ok_or("a command of a newer version: start that one")?;
        self.places.drain(..self.place_of(number).unwrap_or(0));
        let first = self.first();
        self.queues.values_mut().for_each(|queue| queue.retain(|number| *number >= first));
        self.queues.retain(|_, queue| !queue.is_empty());
        Ok(first)
    }

    /// The first record that is kept: the trimmed one's entry keeps its others.
    fn first(&self) -> u64 {
        self.places.first().map_or(self.next, |(number, _)| *number)
    }

    /// Which of `places` holds a record, or is the last before it.
    fn place_of(&self, number: u64) -> Option<usize> {
        self.places.partition_point(|(first, _)| *first <= number).checked_sub(1)
    }

    /// The same, from nothing but the log.
    fn rebuilt(&self, store: &Store) -> Result<Index, ReadLogError> {
        let (next, mut index) =
            self.places.first().copied().unwrap_or((self.next, self.applied + 1));
        let mut again = Index { next, ..Index::default() };
        while index <= self.applied {
            for ApplyEntry { position, commands, .. } in store.read_log(GROUP, index, READ_BYTES)? {
                index = position.index + 1;
                if position.index <= self.applied {
                    // It was taken before, so it can be.
                    commands.iter().for_each(|command| drop(again.take(position.index, command)));
                }
            }
        }
        Ok(Index { applied: self.applied, ..again })
    }
}

/// The state machine, and the broker that it drives.
#[derive(Default)]
struct CommitLog {
    index: Mutex<Index>,
    role: Mutex<String>,
}

impl CommitLog {
    fn set_role(&self, role: String) {
        println!("{role}");
        *self.role.lock() = role;
    }
}

impl StateMachine for CommitLog {
    fn apply(&self, batch: &mut [GroupApply]) -> Result<(), Fatal> {
        let mut index = self.index.lock();
        for group in batch {
            group.each(|position, command| {
                index.take(position.index, command).map(|number| Bytes::from(number.to_string()))
            });
            index.applied = group.applied().map_or(index.applied, |position| position.index);
        }
        Ok(())
    }

    fn snapshot_save(&self, _group: GroupId, out: &mut dyn Write) -> Result<Option<u64>, Fatal> {
        let index = self.index.lock().clone();
        serde_json::to_writer(out, &index).map_err(|e| Fatal::new("save the index", e))?;
        Ok(Some(index.applied))
    }

    fn snapshot_load(
        &self,
        _group: GroupId,
        _position: LogPosition,
        from: &mut dyn Read,
    ) -> Result<(), Fatal> {
        let index = serde_json::from_reader(from).map_err(|e| Fatal::new("load the index", e))?;
        *self.index.lock() = index;
        Ok(())
    }

    fn log_needed(&self, _group: GroupId) -> u64 {
        let index = self.index.lock();
        index.places.first().map_or(index.applied + 1, |(_, entry)| *entry)
    }

    /// Told when everything of earlier terms is applied: the consume queues are complete.
    fn on_leader_start(&self, _group: GroupId, term: u64) {
        self.set_role(format!("master in term {term}"));
    }

    fn on_leader_stop(&self, _group: GroupId, _reason: LeaderStop) {
        self.set_role("none".to_owned());
    }

    fn on_following_start(&self, _group: GroupId, leader: ReplicaId, term: u64) {
        self.set_role(format!("slave of {leader} in term {term}"));
    }

    fn on_following_stop(&self, _group: GroupId, _leader: ReplicaId, _term: u64) {
        self.set_role("none".to_owned());
    }
}

/// Up to `count` records from `number` on, out of the committed log, on whichever member.
fn read(log: &Member<CommitLog>, number: u64, count: usize) -> Result<Vec<String>, String> {
    let (mut at, mut index) = {
        let index = log.machine.machine().index.lock();
        let (first, next) = (index.first(), index.next);
        let Some(place) = index.place_of(number).filter(|_| number < next) else {
            return Err(format!("error record {number}: from {first} to before {next} are here"));
        };
        index.places[place]
    };
    let mut found = Vec::new();
    while found.len() < count {
        let entries = match log.store.read_log(GROUP, index, READ_BYTES) {
            Ok(entries) => entries,
            Err(ReadLogError::NotYet { .. }) => break,
            Err(error) => return Err(format!("error {error}")),
        };
        for entry in entries {
            index = entry.position.index + 1;
            for text in entry.commands.iter().filter_map(record) {
                if at >= number && found.len() < count {
                    found.push(text.to_owned());
                }
                at += 1;
            }
        }
    }
    Ok(found)
}

/// One line's answer.
fn answer(log: &Member<CommitLog>, line: &str) -> Result<String, String> {
    let wrong = |text: &str| format!("error number '{text}': must be a whole number");
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong(text));
    let propose = |command: String, trims| {
        log.propose(command, trims).map(|number| format!("ok {}", String::from_utf8_lossy(&number)))
    };
    let state = log.machine.machine();
    match line.split(' ').collect::<Vec<_>>()[..] {
        ["append", topic, _, ..] if !topic.is_empty() => {
            propose(line.replacen("append ", "+", 1), false)
        }
        ["trim", first] => propose(format!("-{}", number(first)?), true),
        ["get", digits] => Ok(format!("ok {}", read(log, number(digits)?, 1)?.join("\n"))),
        ["read", digits, count] => {
            let found = read(log, number(digits)?, number(count)?.min(1_000) as usize)?;
            Ok([vec![format!("ok {}", found.len())], found].concat().join("\n"))
        }
        ["end"] => {
            log.read_barrier()?;
            Ok(format!("ok {}", state.index.lock().next))
        }
        ["queue", topic] => {
            let index = state.index.lock();
            let numbers = index.queues.get(topic).into_iter().flatten();
            Ok(numbers.fold("ok".to_owned(), |line, number| format!("{line} {number}")))
        }
        ["rebuild"] => {
            let index = state.index.lock().clone();
            let again = index.rebuilt(&log.store).map_err(|error| format!("error {error}"))?;
            let records = index.next - index.first();
            if again != index {
                return Err(format!("error the log gives {again:?}, here is {index:?}"));
            }
            Ok(format!("ok {records} records"))
        }
        ["role"] => Ok(format!("ok {}", state.role.lock())),
        _ => Err(format!(
            "error '{line}': say append TOPIC TEXT, get NUMBER, read NUMBER COUNT, end, queue TOPIC, \
             rebuild, trim NUMBER or role"
        )),
    }
}

fn main() -> ExitCode {
    member::run(CLUSTER, CommitLog::default(), answer)
}
