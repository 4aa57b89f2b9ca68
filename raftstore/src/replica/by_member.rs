//! What a replica knows of each member, in few bytes: there are a handful of members and very many
//! replicas, and a map's first entry takes room for eleven.

use crate::types::ReplicaId;

/// A value a member, in no order.
pub(super) struct ByMember<T>(Vec<(ReplicaId, T)>);

impl<T> Default for ByMember<T> {
    fn default() -> Self {
        ByMember(Vec::new())
    }
}

impl<T> ByMember<T> {
    pub(super) fn get(&self, member: ReplicaId) -> Option<&T> {
        self.0.iter().find(|(of, _)| *of == member).map(|(_, value)| value)
    }

    /// The member's value, which is the default at first.
    pub(super) fn entry(&mut self, member: ReplicaId) -> &mut T
    where
        T: Default,
    {
        let at = self.0.iter().position(|(of, _)| *of == member).unwrap_or_else(|| {
            self.0.push((member, T::default()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    pub(super) fn retain(&mut self, is_member: impl Fn(ReplicaId) -> bool) {
        self.0.retain(|(of, _)| is_member(*of));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(ReplicaId, T)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_has_one_value_until_it_leaves() {
        let mut heard = ByMember::default();
        for (member, at) in [(7, 1), (3, 2), (7, 5)] {
            *heard.entry(ReplicaId(member)) = at;
        }
        assert_eq!((heard.get(ReplicaId(7)), heard.get(ReplicaId(4))), (Some(&5), None));
        assert!(heard.iter().eq(&[(ReplicaId(7), 5), (ReplicaId(3), 2)]));
        heard.retain(|member| member == ReplicaId(3));
        assert_eq!((heard.get(ReplicaId(7)), heard.get(ReplicaId(3))), (None, Some(&2)));
    }
}
