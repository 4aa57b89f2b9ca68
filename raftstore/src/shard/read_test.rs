use super::promise_tests::{GROUP, OVER, Voter, message};
use super::*;
use crate::completion::{Answer, OnceCompletion, Outcome};
use crate::message::{Applied, ReadMode};
use raft::eraftpb::{Message, MessageType};
use std::sync::mpsc;

const TERM: u64 = 6;

/// Wins an election, as far as replica 2 can make it win; nothing of its term is committed.
fn elected() -> Voter {
    let mut voter = Voter::following();
    let asks =
        |sent: &[Message]| sent.iter().any(|m| m.get_msg_type() == MessageType::MsgRequestPreVote);
    voter.now += OVER;
    let asked = (0..30).any(|_| {
        voter.now += 100_000_000;
        asks(&voter.work(vec![ShardMessage::Tick]))
    });
    assert!(asked);
    voter.hear(message(MessageType::MsgRequestPreVoteResponse, 2, TERM));
    let sent = voter.hear(message(MessageType::MsgRequestVoteResponse, 2, TERM));
    assert!(sent.iter().any(|m| m.get_msg_type() == MessageType::MsgAppend), "{sent:?}");
    voter
}

fn read(voter: &mut Voter, mode: ReadMode) -> (Vec<Message>, mpsc::Receiver<Outcome>) {
    let (sender, outcome) = mpsc::channel();
    let reply = OnceCompletion::reply(move |outcome| sender.send(outcome).unwrap());
    let read = Request::ReadBarrier { group: GROUP, mode, reply };
    (voter.work(vec![ShardMessage::Requests(vec![read])]), outcome)
}

/// Replica 2 confirms what it is asked in `sent`.
fn confirm(voter: &mut Voter, sent: &[Message]) {
    let to_two = |m: &&Message| m.to == 2 && m.get_msg_type() == MessageType::MsgHeartbeat;
    for asked in sent.iter().filter(to_two) {
        let mut answer = message(MessageType::MsgHeartbeatResponse, 2, TERM);
        answer.context = asked.context.clone();
        voter.hear(answer);
    }
}

/// Bug 1: what an earlier leader acknowledged may lie behind what the new one knows as committed. Bug 5: who
/// asks until then is refused at once, not forgotten.
#[test]
fn a_new_leader_reads_once_it_has_committed_in_its_term() {
    let mut voter = elected();
    for mode in [ReadMode::Linearizable, ReadMode::Lease] {
        let (sent, outcome) = read(&mut voter, mode);
        confirm(&mut voter, &sent);
        let refused = outcome.try_recv().expect("an answer");
        assert!(matches!(refused, Err(Error::Busy { .. })), "{refused:?}");
    }

    let mut appended = message(MessageType::MsgAppendResponse, 2, TERM);
    appended.index = 1;
    voter.hear(appended);
    let (group, replica) = (GROUP, ReplicaId(1));
    let applied = Applied { group, replica, index: 1, bytes: 0, destroyed: false, failure: None };
    voter.work(vec![ShardMessage::Applied(vec![applied])]);
    let (sent, outcome) = read(&mut voter, ReadMode::Linearizable);
    assert!(outcome.try_recv().is_err(), "no quorum was asked");
    confirm(&mut voter, &sent);
    assert_eq!(outcome.try_recv().expect("an answer"), Ok(Answer::ReadReady));
}
