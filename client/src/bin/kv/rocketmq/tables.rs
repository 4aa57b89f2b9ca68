//! Which file holds which tables, and what kinds of records they become.

use Layout::{Headed, Level, Names, Queues, Whole};
use Part::{Name, Number};

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Topic,
    Group,
    Offset,
    KvEntry,
    User,
    AclSubject,
    AclEntry,
    Forbidden,
    PullOffset,
    DelayOffset,
    GroupTopics,
    StaticTopic,
    StaticQueue,
    RequestMode,
    FilterTopic,
    Filter,
    OrderInfo,
    Transaction,
    Version,
    File,
}

/// A piece of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Name,
    Number,
}

impl Kind {
    pub const ALL: [Kind; 20] = [
        Kind::Topic,
        Kind::Group,
        Kind::Offset,
        Kind::KvEntry,
        Kind::User,
        Kind::AclSubject,
        Kind::AclEntry,
        Kind::Forbidden,
        Kind::PullOffset,
        Kind::DelayOffset,
        Kind::GroupTopics,
        Kind::StaticTopic,
        Kind::StaticQueue,
        Kind::RequestMode,
        Kind::FilterTopic,
        Kind::Filter,
        Kind::OrderInfo,
        Kind::Transaction,
        Kind::Version,
        Kind::File,
    ];

    /// The word in keys, the pieces of a key after it, the word in summaries. Kinds that share a
    /// word differ in the number of pieces.
    fn spec(self) -> (&'static str, &'static [Part], &'static str) {
        match self {
            Kind::Topic => ("topic", &[Name], "topics"),
            Kind::Group => ("group", &[Name], "groups"),
            Kind::Offset => ("offset", &[Name, Name, Number], "offsets"),
            Kind::KvEntry => ("kv", &[Name, Name], "kv_entries"),
            Kind::User => ("user", &[Name], "users"),
            Kind::AclSubject => ("acl", &[Name], "acl_subjects"),
            Kind::AclEntry => ("acl", &[Name, Number, Number], "acl_entries"),
            Kind::Forbidden => ("forbidden", &[Name, Name], "forbidden"),
            Kind::PullOffset => ("pull", &[Name, Name, Number], "pull_offsets"),
            Kind::DelayOffset => ("delay", &[Number], "delay_offsets"),
            Kind::GroupTopics => ("group-topics", &[Name], "group_topics"),
            Kind::StaticTopic => ("static", &[Name], "static_topics"),
            Kind::StaticQueue => ("static", &[Name, Number], "static_queues"),
            Kind::RequestMode => ("request-mode", &[Name, Name], "request_modes"),
            Kind::FilterTopic => ("filter", &[Name], "filter_topics"),
            Kind::Filter => ("filter", &[Name, Name], "filters"),
            Kind::OrderInfo => ("order", &[Name, Name, Number], "order_infos"),
            Kind::Transaction => ("transaction", &[Name], "transactions"),
            Kind::Version => ("version", &[Name], "versions"),
            Kind::File => ("file", &[Name, Number], "file_parts"),
        }
    }

    /// The word in keys.
    pub fn word(self) -> &'static str {
        self.spec().0
    }

    /// The pieces of a key after the word.
    pub fn parts(self) -> &'static [Part] {
        self.spec().1
    }

    /// The plural in summaries.
    pub fn label(self) -> &'static str {
        self.spec().2
    }

    /// The kind of a key with this word and so many pieces.
    pub fn find(word: &str, parts: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word && kind.parts().len() == parts)
    }
}

/// How a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// JSON text, compact.
    Json,
    /// An i64 in 8 bytes, big-endian.
    Integer,
    /// The text itself, UTF-8.
    Text,
}

/// How a table's rows lie in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The field is one row, named after the file.
    Whole,
    /// `{A: row}` or `{A: {B: row}}`: one name a level, as many as the key has pieces.
    Names,
    /// `{number: row}`.
    Level,
    /// `{"TOPIC@GROUP": {queue: row}}`, keyed GROUP, TOPIC, queue.
    Queues,
    /// `{TOPIC: {inner: {X: row}, …}}`: what is left of the topic's object is a row of its own.
    Headed { head: Kind, inner: &'static str },
}

/// One table of one file.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    pub file: &'static str,
    pub field: &'static str,
    pub kind: Kind,
    pub layout: Layout,
    pub codec: Codec,
}

const fn table(
    file: &'static str,
    field: &'static str,
    kind: Kind,
    layout: Layout,
    codec: Codec,
) -> Table {
    Table { file, field, kind, layout, codec }
}

const OFFSETS: &str = "consumerOffset.json";
const GROUPS: &str = "subscriptionGroup.json";
const MAPPING: &str = "topicQueueMapping.json";
const FILTERS: &str = "consumerFilter.json";
const MODES: &str = "messageRequestMode.json";
const ORDER: &str = "consumerOrderInfo.json";
const METRICS: &str = "transactionMetrics";
const QUEUES_HEADED: Layout = Headed { head: Kind::StaticTopic, inner: "hostedQueues" };
const FILTERS_HEADED: Layout = Headed { head: Kind::FilterTopic, inner: "groupFilterData" };

/// Every table of every file that is an object.
pub const TABLES: [Table; 19] = [
    table("topics.json", "dataVersion", Kind::Version, Whole, Codec::Json),
    table("topics.json", "topicConfigTable", Kind::Topic, Names, Codec::Json),
    table(GROUPS, "dataVersion", Kind::Version, Whole, Codec::Json),
    table(GROUPS, "subscriptionGroupTable", Kind::Group, Names, Codec::Json),
    table(GROUPS, "forbiddenTable", Kind::Forbidden, Names, Codec::Integer),
    table(OFFSETS, "dataVersion", Kind::Version, Whole, Codec::Json),
    table(OFFSETS, "offsetTable", Kind::Offset, Queues, Codec::Integer),
    table(OFFSETS, "pullOffsetTable", Kind::PullOffset, Queues, Codec::Integer),
    table(OFFSETS, "groupTopicMap", Kind::GroupTopics, Names, Codec::Json),
    table("delayOffset.json", "dataVersion", Kind::Version, Whole, Codec::Json),
    table("delayOffset.json", "offsetTable", Kind::DelayOffset, Level, Codec::Integer),
    table(MAPPING, "dataVersion", Kind::Version, Whole, Codec::Json),
    table(MAPPING, "topicQueueMappingInfoMap", Kind::StaticQueue, QUEUES_HEADED, Codec::Json),
    table(MODES, "messageRequestModeMap", Kind::RequestMode, Names, Codec::Json),
    table(FILTERS, "filterDataByTopic", Kind::Filter, FILTERS_HEADED, Codec::Json),
    table(ORDER, "table", Kind::OrderInfo, Queues, Codec::Json),
    table(METRICS, "dataVersion", Kind::Version, Whole, Codec::Json),
    table(METRICS, "transactionCount", Kind::Transaction, Names, Codec::Json),
    table("kvConfig.json", "configTable", Kind::KvEntry, Names, Codec::Text),
];

/// The files that are lists of named objects.
pub const USERS: &str = "users.json";
pub const ACLS: &str = "acls.json";

/// Whether the file's contents are understood, not only kept.
pub fn is_known(file: &str) -> bool {
    file == USERS || file == ACLS || TABLES.iter().any(|table| table.file == file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart_by_word_and_pieces() {
        for kind in Kind::ALL {
            assert_eq!(Kind::find(kind.word(), kind.parts().len()), Some(kind));
        }
        assert_eq!(Kind::find("topic", 2), None);
    }

    #[test]
    fn a_kind_lies_in_one_file_only() {
        for (index, a) in TABLES.iter().enumerate() {
            for b in &TABLES[index + 1..] {
                assert!(a.kind != b.kind || a.kind == Kind::Version, "{:?}", a.kind);
            }
        }
    }
}
