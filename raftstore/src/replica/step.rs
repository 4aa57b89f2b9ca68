//! What other replicas send, checked before the consensus library sees it.
//!
//! The library aborts on about 25 shapes of message that an honest peer never sends (trap 9): a
//! wrong one is dropped here; one that proves damage quarantines this replica, not the store.

use super::{Replica, codec};
use crate::clock::Time;
use crate::events::Event;
use crate::members;
use crate::transport::{Envelope, Payload};
use crate::types::{GroupRecord, ReplicaId, StoreId};
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

/// Why a message was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Malformed, misaddressed, or of no use now. Raft tolerates the loss.
    Dropped(String),
    /// It says that this replica was removed: its tombstone's record.
    Removed(Box<GroupRecord>),
    /// Its sender was removed from the group and is to be told.
    Left(ReplicaId),
    /// It proves that this replica lost data it had acknowledged: quarantine it.
    Damaged(String),
}

fn dropped(reason: impl Into<String>) -> Result<(), Refused> {
    Err(Refused::Dropped(reason.into()))
}

impl Replica {
    /// Takes one message from `store`. `no_entries`: why entries are refused for now.
    pub(crate) fn step(
        &mut self,
        store: StoreId,
        envelope: Envelope,
        no_entries: Option<&'static str>,
        time: Time,
    ) -> Result<(), Refused> {
        let bytes = match envelope.payload {
            // From anybody: what it says is committed, whoever tells it.
            Payload::Members(bytes) => {
                let told = members::codec::decode(&bytes).map_err(Refused::Dropped)?;
                return self.learn_members(told);
            }
            Payload::DurableApplied(index) => {
                self.meet(store, &envelope)?;
                self.durable.heard(envelope.from, index);
                return Ok(());
            }
            Payload::AskIndex { number, by_lease } => {
                self.meet(store, &envelope)?;
                self.asked_for_index(envelope.from, number, by_lease);
                return Ok(());
            }
            Payload::ReadIndex { number, position } => {
                self.meet(store, &envelope)?;
                self.index_told(number, position);
                return Ok(());
            }
            Payload::Sleep(last) => {
                self.meet(store, &envelope)?;
                self.told_to_sleep(envelope.from, last);
                return Ok(());
            }
            // Shards speak of themselves, not to replicas.
            Payload::Alive(_) => return Ok(()),
            Payload::Damaged => {
                // Heard of, but not alive.
                self.check_sender(store, &envelope)?;
                if self.is_leader() {
                    self.replace_damaged(envelope.from);
                }
                return Ok(());
            }
            Payload::SnapshotFailed => {
                self.meet(store, &envelope)?;
                self.snapshot_failed(envelope.from);
                return Ok(());
            }
            Payload::Raft { ref bytes, .. } => {
                self.meet(store, &envelope)?;
                bytes
            }
        };
        let (message, stamp) = codec::decode(bytes).map_err(Refused::Dropped)?;
        if message.from != envelope.from.0 || message.to != envelope.to.0 || message.term == 0 {
            return dropped("a message whose header contradicts its envelope");
        }
        self.check(&message, no_entries)?;
        if let Some(why) = self.promised_against(&message, time) {
            return dropped(why);
        }
        self.note_acknowledged(&message);
        self.note_candidate(&message);
        self.ask_for_beginning();
        match message.get_msg_type() {
            MessageType::MsgSnapshot => {
                return self.offered(store, message).map_err(Refused::Dropped);
            }
            MessageType::MsgAppendResponse => self.note_beginning(&message),
            _ => {}
        }
        let (kind, from, term) = (message.get_msg_type(), message.from, message.term);
        // The remaining errors mean "no such peer" or "dropped": nothing to do.
        let _ = self.raw.step(message);
        if kind == MessageType::MsgTimeoutNow && self.raw.raft.state != StateRole::Follower {
            self.events.push(Event::ElectionBegun);
        }
        self.note_stamp(kind, from, term, stamp, time);
        Ok(())
    }

    /// Checks who sends to whom, and takes note of it.
    fn meet(&mut self, store: StoreId, envelope: &Envelope) -> Result<(), Refused> {
        let is_member = self.check_sender(store, envelope)?;
        self.members.heard(envelope.from, store, is_member);
        Ok(())
    }

    /// Whether the sender is a member. Whoever is not known yet may have been added by an entry that is
    /// still to come.
    fn check_sender(&self, store: StoreId, envelope: &Envelope) -> Result<bool, Refused> {
        let desc = &self.record.desc;
        let sender = desc.replica(envelope.from);
        if sender.is_none() && desc.has_left(envelope.from) {
            return Err(Refused::Left(envelope.from));
        }
        if envelope.to != self.me.replica || sender.is_some_and(|r| r.store != store) {
            return Err(Refused::Dropped(format!(
                "from replica {} on store {store} to replica {}: not ours",
                envelope.from, envelope.to
            )));
        }
        Ok(sender.is_some())
    }

    fn note_acknowledged(&mut self, message: &Message) {
        let acknowledges = message.get_msg_type() == MessageType::MsgAppendResponse
            && !message.reject
            && message.term == self.raw.raft.term
            && self.is_leader();
        if acknowledges && !self.acknowledged.contains(&message.from) {
            self.acknowledged.push(message.from);
        }
    }

    fn note_candidate(&mut self, message: &Message) {
        let asks = matches!(
            message.get_msg_type(),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
        );
        let current = message.term >= self.raw.raft.term;
        if asks && current {
            let log = &self.raw.raft.raft_log;
            self.timer.note_asked(log.is_up_to_date(message.index, message.log_term));
        }
    }

    fn check(&self, message: &Message, no_entries: Option<&str>) -> Result<(), Refused> {
        let log = &self.raw.raft.raft_log;
        let current = message.term >= self.raw.raft.term;
        match message.get_msg_type() {
            MessageType::MsgAppend => self.check_append(message, no_entries),
            MessageType::MsgHeartbeat if current && message.commit > log.last_index() => {
                // The leader saw our acknowledgement of an index that we do not have.
                Err(Refused::Damaged(format!(
                    "the leader knows index {} as acknowledged here, but the log ends at {}",
                    message.commit,
                    log.last_index()
                )))
            }
            MessageType::MsgAppendResponse => self.check_append_response(message),
            MessageType::MsgTimeoutNow if !self.may_campaign() => {
                dropped("told to campaign while far behind in applying, or about to stop")
            }
            MessageType::MsgTimeoutNow if self.never_leads() => {
                dropped("told to campaign with priority 0")
            }
            _ => Ok(()),
        }
    }

    fn check_append(&self, message: &Message, no_entries: Option<&str>) -> Result<(), Refused> {
        if let Some(why) = no_entries
            && !message.entries.is_empty()
        {
            return dropped(why);
        }
        let mut previous = (message.index, message.log_term);
        for entry in &message.entries {
            let follows = entry.index == previous.0 + 1 && entry.term >= previous.1;
            if !follows || entry.term > message.term {
                return dropped(format!("entry {} does not follow {previous:?}", entry.index));
            }
            previous = (entry.index, entry.term);
        }
        let log = &self.raw.raft.raft_log;
        let conflict = message.term >= self.raw.raft.term
            && message.entries.iter().take_while(|e| e.index <= log.committed).any(|e| {
                e.index >= log.first_index() && log.term(e.index).is_ok_and(|t| t != e.term)
            });
        if conflict {
            return Err(Refused::Damaged(format!(
                "the leader's entries contradict what is committed here up to {}",
                log.committed
            )));
        }
        Ok(())
    }

    fn check_append_response(&self, message: &Message) -> Result<(), Refused> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader || message.term != raft.term {
            return Ok(());
        }
        if !message.reject && message.index > raft.raft_log.last_index() {
            return dropped("acknowledges an index that was never sent");
        }
        // A delayed rejection would push next_idx back behind matched (trap 10).
        let matched = raft.prs().get(message.from).map_or(0, |p| p.matched);
        if message.reject && message.index <= matched && message.request_snapshot == 0 {
            return dropped("rejects what it has acknowledged since");
        }
        Ok(())
    }
}
