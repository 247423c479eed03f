//! The index against a naive list of filters, and the rules of shares.

use std::sync::Arc;

use link::ConnectionId;
use mqtt::QoS;
use proptest::prelude::*;
use state::SubscriptionOptions;

use super::{Index, Subscriber};
use crate::directory::session_handle::SessionHandle;

fn session(id: u64) -> Arc<SessionHandle> {
    Arc::new(SessionHandle::new(id, format!("c{id}").into(), None))
}

fn entry(session: &Arc<SessionHandle>) -> Subscriber {
    let options = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        subscription_id: 0,
    };
    Subscriber::Session(Arc::clone(session), options)
}

fn matching(index: &Index, topic: &str) -> Vec<u64> {
    let mut ids: Vec<u64> =
        index.matches(topic).iter().flat_map(|leaf| leaf.plain()).map(Subscriber::id).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn filters_match_as_the_specification_says() {
    let cases = [
        ("a/b", "a/b", true),
        ("a/b", "a/b/c", false),
        ("a/+", "a/b", true),
        ("a/+", "a", false),
        ("a/+", "a/", true),
        ("a/#", "a", true),
        ("a/#", "a/b/c", true),
        ("#", "a/b", true),
        ("+", "/a", false),
        ("/+", "/a", true),
        ("+/+", "/a", true),
        ("#", "$SYS/x", false),
        ("+/x", "$SYS/x", false),
        ("$SYS/#", "$SYS/x", true),
        ("$SYS/+", "$SYS/x", true),
        ("a/+/c", "a/b/c", true),
        ("a/+/c", "a/b/d", false),
        ("a//b", "a//b", true),
    ];
    for (filter, topic, expected) in cases {
        let mut index = Index::default();
        index.insert(&filter.into(), entry(&session(1)));
        assert_eq!(!matching(&index, topic).is_empty(), expected, "{filter} against {topic}");
        assert_eq!(mqtt::topic::matches(filter, topic), expected, "{filter} against {topic}");
    }
}

#[test]
fn inserting_again_replaces_the_options() {
    let (mut index, one) = (Index::default(), session(1));
    assert!(index.insert(&"a/+".into(), entry(&one)).is_none());
    let Subscriber::Session(session, mut options) = entry(&one) else { panic!("a session") };
    options.qos = QoS::ExactlyOnce;
    assert!(index.insert(&"a/+".into(), Subscriber::Session(session, options)).is_some());
    assert_eq!(index.len(), 1);
    assert_eq!(index.matches("a/b")[0].plain()[0].options(), Some(options));
}

#[test]
fn removing_the_last_subscription_leaves_nothing_behind() {
    let (mut index, one) = (Index::default(), session(1));
    let filters = ["a/b", "a/+/c", "#", "$share/g/a/+/c", "$share/g/x", "+/+/#"];
    for filter in filters {
        index.insert(&filter.into(), entry(&one));
    }
    assert_eq!(index.len(), filters.len());
    for filter in filters {
        assert!(index.remove(filter, 1).is_some(), "{filter}");
        assert!(index.remove(filter, 1).is_none(), "{filter}");
    }
    assert_eq!(index.len(), 0);
    assert!(index.exact.is_empty());
    assert!(index.matches("a/b/c").is_empty());
    assert_eq!(format!("{:?}", index.wildcard), format!("{:?}", super::Tree::default()));
}

#[test]
fn a_large_leaf_finds_its_members_by_session() {
    let mut index = Index::default();
    let sessions: Vec<_> = (0..200).map(session).collect();
    for one in &sessions {
        index.insert(&"t".into(), entry(one));
    }
    for id in (0..200).step_by(2) {
        assert!(index.remove("t", id).is_some());
    }
    assert_eq!(matching(&index, "t"), (1..200).step_by(2).collect::<Vec<_>>());
}

fn connected_first(entry: &Subscriber) -> Option<u8> {
    Some(u8::from(!entry.session().is_some_and(|(session, _)| session.is_connected())))
}

// HAZARDS 28: shares must not go to offline members while one is connected, and must be fair.
#[test]
fn a_share_goes_round_its_connected_members_first() {
    let mut index = Index::default();
    let sessions: Vec<_> = (0..4).map(session).collect();
    for one in &sessions {
        index.insert(&"$share/g/t".into(), entry(one));
    }
    sessions[1].attach(ConnectionId(1), false);
    sessions[3].attach(ConnectionId(3), false);
    let mut turns = [0; 4];
    for _ in 0..100 {
        let matches = index.matches("t");
        let mut asked = Vec::new();
        let taken = matches[0].shared()[0].offer(connected_first, |entry| {
            asked.push(entry.id());
            true
        });
        assert!(taken && asked.len() == 1);
        turns[usize::try_from(asked[0]).unwrap()] += 1;
    }
    assert_eq!(turns, [0, 50, 0, 50]);
    let mut asked = Vec::new();
    assert!(!index.matches("t")[0].shared()[0].offer(connected_first, |entry| {
        asked.push(entry.id());
        false
    }));
    assert!(asked.len() == 4 && asked[..2].contains(&1) && asked[..2].contains(&3), "{asked:?}");
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![4 => "[ab]", 1 => Just("+".to_owned()), 1 => Just(String::new())];
    (prop::collection::vec(level, 1..4), any::<bool>())
        .prop_map(|(levels, multi)| {
            let mut filter = levels.join("/");
            if multi {
                filter.push_str("/#");
            }
            filter
        })
        .prop_filter("filters have a character", |filter| !filter.is_empty())
}

proptest! {
    #[test]
    fn the_index_agrees_with_a_list(
        changes in prop::collection::vec((0..6_u64, filter(), prop::bool::weighted(0.7)), 1..60),
        topics in prop::collection::vec("[ab]?(/[ab]?){0,3}", 1..10),
    ) {
        let sessions: Vec<_> = (0..6).map(session).collect();
        let mut index = Index::default();
        let mut list: Vec<(u64, String)> = Vec::new();
        for (id, filter, add) in changes {
            let known = list.iter().position(|(i, f)| *i == id && *f == filter);
            if add {
                let one = &sessions[usize::try_from(id).unwrap()];
                prop_assert_eq!(index.insert(&filter.as_str().into(), entry(one)).is_some(), known.is_some());
                if known.is_none() {
                    list.push((id, filter));
                }
            } else {
                prop_assert_eq!(index.remove(&filter, id).is_some(), known.is_some());
                if let Some(known) = known {
                    list.remove(known);
                }
            }
            prop_assert_eq!(index.len(), list.len());
        }
        for topic in topics.iter().filter(|topic| !topic.is_empty()) {
            let mut expected: Vec<u64> =
                list.iter().filter(|(_, f)| mqtt::topic::matches(f, topic)).map(|(id, _)| *id).collect();
            expected.sort_unstable();
            prop_assert_eq!(matching(&index, topic), expected, "{}", topic);
        }
    }
}
