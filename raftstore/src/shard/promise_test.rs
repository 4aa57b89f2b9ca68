use super::*;
use crate::completion::OnceCompletion;
use crate::log::MemoryLog;
use crate::log::writer::LogWriter;
use crate::message::ShardMessage;
use crate::replica::codec;
use crate::transport::Payload;
use crate::types::{GroupDesc, Nanos, ReplicaDesc, ReplicaId, ReplicaRole};
use raft::eraftpb::{Message, MessageType};

pub(super) const GROUP: GroupId = GroupId(1);
/// After a promise, as the configuration of these tests has it.
pub(super) const OVER: u64 = 900_000_000;

/// The replica 1 of three, with its disk; the others are played by hand.
pub(super) struct Voter {
    log: Arc<dyn LogStore>,
    pub(super) shard: Shard,
    pub(super) now: u64,
}

pub(super) fn message(kind: MessageType, from: u64, term: u64) -> Message {
    let mut message = Message { from, to: 1, term, ..Message::default() };
    message.set_msg_type(kind);
    message
}

fn open(log: &Arc<dyn LogStore>) -> Shard {
    let groups = log.load().expect("a log in memory is readable");
    let recovered = |log: GroupLog| RecoveredGroup {
        log,
        applied: 0,
        commit: 0,
        log_needed: u64::MAX,
        damage: None,
        snapshots: Vec::new(),
    };
    let (config, log) = (Arc::new(Config::default()), Arc::clone(log));
    let parts = ShardConfig { config, shard: 0, store: StoreId(1), seed: 1, log };
    Shard::new(parts, groups.into_iter().map(recovered).collect()).unwrap()
}

impl Voter {
    /// In term 5, after a message of its leader, replica 2.
    pub(super) fn following() -> Voter {
        let log: Arc<dyn LogStore> = MemoryLog::new();
        let mut voter = Voter { shard: open(&log), log, now: 1_000 };
        let member = |id| ReplicaDesc {
            replica: ReplicaId(id),
            store: StoreId(id),
            role: ReplicaRole::Voter,
        };
        let record =
            GroupRecord::new(GroupDesc::new(GROUP, (1..=3).map(member).collect()), ReplicaId(1));
        let reply = OnceCompletion::reply(|created| drop(created.unwrap()));
        let create = Request::CreateGroup { record, reply };
        voter.work(vec![ShardMessage::Requests(vec![create])]);
        voter.hear(message(MessageType::MsgHeartbeat, 2, 5));
        voter
    }

    /// Rounds until nothing is left to write; all that was sent.
    pub(super) fn work(&mut self, mut inbox: Vec<ShardMessage>) -> Vec<Message> {
        let mut sent = Vec::new();
        loop {
            let round = self.shard.round(inbox, Nanos(self.now)).unwrap();
            sent.extend(round.sends.into_iter().flat_map(|(_, envelopes)| envelopes));
            if round.log.is_empty() {
                break;
            }
            let done = LogWriter::new(Arc::clone(&self.log)).run_once(round.log).unwrap();
            sent.extend(done.held.into_iter().flat_map(|(_, envelopes)| envelopes));
            done.created.into_iter().for_each(|reply| reply.send(Ok(crate::Answer::Accepted)));
            inbox = done.persisted.into_iter().map(|(_, p)| ShardMessage::Persisted(p)).collect();
        }
        let raft = |envelope: Envelope| match envelope.payload {
            Payload::Raft { bytes, .. } => Some(codec::decode(&bytes).unwrap().0),
            _ => None,
        };
        sent.into_iter().filter_map(raft).collect()
    }

    pub(super) fn hear(&mut self, message: Message) -> Vec<Message> {
        let (from, payload) = (
            StoreId(message.from),
            Payload::Raft { bytes: codec::encode(&message, None), bulk: false },
        );
        let (sender, to) = (ReplicaId(message.from), ReplicaId(message.to));
        let envelopes = vec![Envelope { group: GROUP, from: sender, to, payload }];
        self.work(vec![ShardMessage::Deliver { from, envelopes }])
    }

    fn term(&self) -> u64 {
        self.shard.statuses()[0].term
    }

    /// Whether replica 3 gets its vote in `term`.
    fn votes(&mut self, term: u64, context: &'static [u8]) -> bool {
        let mut request = message(MessageType::MsgRequestVote, 3, term);
        request.context = context.into();
        let sent = self.hear(request);
        sent.iter().any(|m| m.get_msg_type() == MessageType::MsgRequestVoteResponse && !m.reject)
    }
}

#[test]
fn nobody_gets_a_vote_within_the_promise() {
    let mut voter = Voter::following();
    voter.now += OVER - 1;
    assert!(!voter.votes(6, b""));
    assert_eq!(voter.term(), 5);
    // Ticks count, too, for as long as a leader is known.
    voter.now += 1;
    for _ in 0..10 {
        assert!(!voter.votes(6, b""));
        voter.work(vec![ShardMessage::Tick]);
    }
    assert!(voter.votes(6, b""));
}

/// The library forgets its leader with the term, and whoever has none votes at once.
#[test]
fn a_late_refusal_does_not_raise_the_term_within_the_promise() {
    let mut voter = Voter::following();
    let mut refusal = message(MessageType::MsgRequestPreVoteResponse, 3, 6);
    refusal.reject = true;
    for late in [refusal.clone(), message(MessageType::MsgAppendResponse, 3, 6)] {
        voter.hear(late);
        assert_eq!(voter.term(), 5);
        assert!(!voter.votes(6, b""));
    }
    voter.now += OVER;
    voter.hear(refusal);
    assert!(voter.votes(6, b""));
}

#[test]
fn a_restarted_voter_has_promised_whatever_it_promised_before() {
    let mut voter = Voter::following();
    voter.shard = open(&voter.log);
    voter.work(Vec::new());
    voter.now += OVER - 1;
    assert!(!voter.votes(6, b""));
    voter.now += 1;
    assert!(voter.votes(6, b""));
}

#[test]
fn a_vote_that_the_leader_ordered_is_given() {
    let mut voter = Voter::following();
    assert!(voter.votes(6, raft::CAMPAIGN_TRANSFER));
}

#[test]
fn a_leader_of_a_later_term_is_followed() {
    let mut voter = Voter::following();
    voter.hear(message(MessageType::MsgHeartbeat, 3, 7));
    assert_eq!(voter.term(), 7);
    assert!(!voter.votes(8, b""), "the promise is another one's now");
}
