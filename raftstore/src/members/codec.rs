//! A group's description as bytes: in membership entries, on the wire and in the log's records.
//!
//! Numbers are little endian.
//!
//! ```text
//! members     count u32, then replica u64, store u64, role u8 each
//! membership  version, index, term, largest id u64; request under way u8 (0 or 1), and then:
//!               operation u128, force u8, demote (count u32, ids u64), remove (the same);
//!             accepted operations: count u32, u128 each;
//!             priorities: count u32, replica u64, priority i32 each;
//!             after recoveries only: count u32, operation u128 and survivor u64 each
//! whole       format u8 = 1, group u64, members, membership
//! ```

use super::{
    GroupDesc, Membership, OperationId, PendingChange, Priority, Recovery, ReplicaDesc, ReplicaRole,
};
use crate::types::{GroupId, LogPosition, ReplicaId, StoreId};
use bytes::{Buf, BufMut, Bytes};

const FORMAT: u8 = 1;

/// The whole description.
pub(crate) fn encode(desc: &GroupDesc) -> Bytes {
    let mut out = Vec::with_capacity(64 + 17 * desc.replicas.len());
    out.put_u8(FORMAT);
    out.put_u64_le(desc.group.0);
    put_members(&mut out, &desc.replicas);
    put_membership(&mut out, &desc.membership);
    Bytes::from(out)
}

/// What [`encode`] made; the error says what is wrong with the bytes.
pub(crate) fn decode(mut bytes: &[u8]) -> Result<GroupDesc, String> {
    let input = &mut bytes;
    match input.try_get_u8() {
        Ok(FORMAT) => {}
        Ok(other) => return Err(format!("members in format {other}, written by a newer version")),
        Err(_) => return Err(CUT.to_owned()),
    }
    let group = GroupId(number(input)?);
    let replicas = get_members(input)?;
    let membership = get_membership(input)?;
    if !input.is_empty() {
        return Err(format!("{} bytes follow the members", input.len()));
    }
    Ok(GroupDesc { group, replicas, membership })
}

/// See the module.
pub(crate) fn put_members(out: &mut Vec<u8>, members: &[ReplicaDesc]) {
    out.put_u32_le(u32::try_from(members.len()).expect("a group has few members"));
    for member in members {
        out.put_u64_le(member.replica.0);
        out.put_u64_le(member.store.0);
        out.put_u8(role_number(member.role));
    }
}

/// What [`put_members`] made.
pub(crate) fn get_members(input: &mut &[u8]) -> Result<Vec<ReplicaDesc>, String> {
    let count = short(input)?;
    (0..count)
        .map(|_| {
            let (replica, store) = (ReplicaId(number(input)?), StoreId(number(input)?));
            let role = input.try_get_u8().map_err(|_| CUT)?;
            let role = ReplicaRole::ALL.into_iter().find(|r| role_number(*r) == role);
            let role = role.ok_or("a replica role is unknown")?;
            Ok(ReplicaDesc { replica, store, role })
        })
        .collect()
}

fn role_number(role: ReplicaRole) -> u8 {
    match role {
        ReplicaRole::Voter => 0,
        ReplicaRole::Learner => 1,
        ReplicaRole::Joining => 2,
        ReplicaRole::Incoming => 3,
        ReplicaRole::Outgoing => 4,
        ReplicaRole::Demoting => 5,
    }
}

/// See the module.
pub(crate) fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    let Membership { version, position, replica_max, pending, operations, priorities, recoveries } =
        membership;
    for number in [*version, position.index, position.term, replica_max.0] {
        out.put_u64_le(number);
    }
    out.put_u8(u8::from(pending.is_some()));
    if let Some(pending) = pending {
        let PendingChange { operation, force, demote, remove } = &**pending;
        out.put_u128_le(operation.0);
        out.put_u8(u8::from(*force));
        for ids in [demote, remove] {
            out.put_u32_le(u32::try_from(ids.len()).expect("a change is limited"));
            ids.iter().for_each(|id| out.put_u64_le(id.0));
        }
    }
    out.put_u32_le(u32::try_from(operations.len()).expect("few operations are kept"));
    operations.iter().for_each(|operation| out.put_u128_le(operation.0));
    out.put_u32_le(u32::try_from(priorities.len()).expect("a group has few members"));
    for (replica, priority) in priorities {
        out.put_u64_le(replica.0);
        out.put_i32_le(priority.0);
    }
    if !recoveries.is_empty() {
        out.put_u32_le(u32::try_from(recoveries.len()).expect("few recoveries are kept"));
        for Recovery { operation, survivor } in recoveries {
            out.put_u128_le(operation.0);
            out.put_u64_le(survivor.0);
        }
    }
}

/// What [`put_membership`] made, and nothing behind it.
pub(crate) fn get_membership(input: &mut &[u8]) -> Result<Membership, String> {
    let version = number(input)?;
    let position = LogPosition { index: number(input)?, term: number(input)? };
    let replica_max = ReplicaId(number(input)?);
    let pending = match input.try_get_u8().map_err(|_| CUT)? {
        0 => None,
        _ => Some(Box::new(PendingChange {
            operation: operation(input)?,
            force: input.try_get_u8().map_err(|_| CUT)? != 0,
            demote: ids(input)?,
            remove: ids(input)?,
        })),
    };
    let count = short(input)?;
    let operations = (0..count).map(|_| operation(input)).collect::<Result<_, String>>()?;
    let count = short(input)?;
    let priorities = (0..count).map(|_| priority(input)).collect::<Result<_, String>>()?;
    let count = if input.is_empty() { 0 } else { short(input)? };
    let recoveries = (0..count).map(|_| recovery(input)).collect::<Result<_, String>>()?;
    Ok(Membership { version, position, replica_max, pending, operations, priorities, recoveries })
}

const CUT: &str = "the members are cut short";

fn ids(input: &mut &[u8]) -> Result<Vec<ReplicaId>, String> {
    let count = short(input)?;
    (0..count).map(|_| number(input).map(ReplicaId)).collect()
}

fn short(input: &mut &[u8]) -> Result<u32, String> {
    input.try_get_u32_le().map_err(|_| CUT.to_owned())
}

fn number(input: &mut &[u8]) -> Result<u64, String> {
    input.try_get_u64_le().map_err(|_| CUT.to_owned())
}

fn priority(input: &mut &[u8]) -> Result<(ReplicaId, Priority), String> {
    let replica = ReplicaId(number(input)?);
    Ok((replica, Priority(input.try_get_i32_le().map_err(|_| CUT)?)))
}

fn recovery(input: &mut &[u8]) -> Result<Recovery, String> {
    Ok(Recovery { operation: operation(input)?, survivor: ReplicaId(number(input)?) })
}

fn operation(input: &mut &[u8]) -> Result<OperationId, String> {
    input.try_get_u128_le().map(OperationId).map_err(|_| CUT.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_survives_and_a_torn_one_is_refused() {
        let mut desc = GroupDesc::new(GroupId(7), Vec::new());
        for (id, role) in (1..).zip(ReplicaRole::ALL) {
            desc.replicas.push(ReplicaDesc {
                replica: ReplicaId(id),
                store: StoreId(id + 10),
                role,
            });
        }
        desc.membership = Membership {
            version: 4,
            position: LogPosition { index: 9, term: 3 },
            replica_max: ReplicaId(12),
            pending: Some(Box::new(PendingChange {
                operation: OperationId(u128::MAX - 1),
                force: true,
                demote: vec![ReplicaId(1)],
                remove: vec![ReplicaId(2), ReplicaId(3)],
            })),
            operations: vec![OperationId(1), OperationId(2)],
            priorities: [(ReplicaId(1), Priority(-1)), (ReplicaId(2), Priority(i32::MAX))].into(),
            recoveries: Vec::new(),
        };
        let bytes = encode(&desc);
        assert_eq!(decode(&bytes), Ok(desc.clone()));
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        desc.membership.pending = None;
        let recovery = |id| Recovery { operation: OperationId(id), survivor: ReplicaId(2) };
        desc.membership.recoveries = vec![recovery(3), recovery(u128::MAX)];
        let mut bytes = encode(&desc).to_vec();
        assert_eq!(decode(&bytes), Ok(desc));
        bytes.push(0);
        assert!(decode(&bytes).unwrap_err().contains("1 bytes follow"));
        bytes[0] = 9;
        assert!(decode(&bytes).unwrap_err().contains("format 9"));
    }
}
