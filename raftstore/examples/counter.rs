//! A replicated counter: three processes, any one of which may die.
//!
//! ```text
//! $ cat peers
//! 1 127.0.0.1:7301 127.0.0.1:7401
//! 2 127.0.0.1:7302 127.0.0.1:7402
//! 3 127.0.0.1:7303 127.0.0.1:7403
//! $ counter --peers peers --id 1 --dir counter-1 --create    # and 2, and 3; later without --create
//! $ nc 127.0.0.1 7401
//! increment 5
//! redirect 127.0.0.1:7402      the leader is there
//! $ nc 127.0.0.1 7402
//! increment 5
//! ok 5                         a majority has it on disk
//! get
//! ok 5                         linearizable: never older than what anybody was told before
//! snapshot
//! ok
//! ```
//!
//! Other answers: `later …` (nobody leads yet; ask again), `unknown …` (may or may not have been
//! counted), `error …`.

mod member;

use bytes::Bytes;
use flotilla_raftstore::{ClusterId, Fatal, GroupApply, GroupId, LogPosition, StateMachine};
use member::{GROUP, Member};
use parking_lot::Mutex;
use std::io::{Read, Write};
use std::process::ExitCode;

/// Any number that is no other service's.
const CLUSTER: ClusterId = ClusterId(0x636f_756e_7465_7220_6578_616d_706c_6501);

/// The state: how far the log is applied, and what that counts to.
#[derive(Default)]
struct Counter(Mutex<(u64, i64)>);

impl StateMachine for Counter {
    fn apply(&self, batch: &mut [GroupApply]) -> Result<(), Fatal> {
        let (applied, value) = &mut *self.0.lock();
        for group in batch {
            group.each(|_, command| {
                let step = command.first_chunk().ok_or("a step has eight bytes")?;
                *value = value.wrapping_add(i64::from_le_bytes(*step));
                Ok(Bytes::from(value.to_string()))
            });
            *applied = group.applied().map_or(*applied, |position| position.index);
        }
        Ok(())
    }

    fn snapshot_save(&self, _group: GroupId, out: &mut dyn Write) -> Result<Option<u64>, Fatal> {
        let (applied, value) = *self.0.lock();
        out.write_all(&value.to_le_bytes()).map_err(|e| Fatal::new("save the counter", e))?;
        Ok(Some(applied))
    }

    fn snapshot_load(
        &self,
        _group: GroupId,
        position: LogPosition,
        from: &mut dyn Read,
    ) -> Result<(), Fatal> {
        let mut value = [0; 8];
        from.read_exact(&mut value).map_err(|e| Fatal::new("load the counter", e))?;
        *self.0.lock() = (position.index, i64::from_le_bytes(value));
        Ok(())
    }
}

/// One line's answer.
fn answer(member: &Member<Counter>, line: &str) -> Result<String, String> {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["increment", step] => {
            let wrong = |_| format!("error step '{step}': must be a whole number");
            let step: i64 = step.parse().map_err(wrong)?;
            let value = member.propose(step.to_le_bytes().to_vec(), false)?;
            Ok(format!("ok {}", String::from_utf8_lossy(&value)))
        }
        ["get"] => {
            member.read_barrier()?;
            Ok(format!("ok {}", member.machine.machine().0.lock().1))
        }
        ["snapshot"] => {
            member.request(|reply| member.store.snapshot(GROUP, reply))?;
            Ok("ok".to_owned())
        }
        _ => Err(format!("error '{line}': say increment NUMBER, get or snapshot")),
    }
}

fn main() -> ExitCode {
    member::run(CLUSTER, Counter::default(), answer)
}
