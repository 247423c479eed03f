//! Retained messages.

use std::sync::Arc;

use mqtt::QoS;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use state::{Message, StoreError};

use crate::harness::{Backend, Bounds, Calls, START, begin, message, owned, take, wait};

const TOPICS: [&str; 14] =
    ["a", "a/b", "a/b/c", "a/c", "a/c/c", "a-b", "ab/c", "/", "/a", "a/", "a//c", "$SYS", "$SYS/x", "é/ü"];

fn filled<B: Backend>() -> B {
    let backend = B::fresh();
    for topic in TOPICS {
        Calls(backend.store()).retain(topic, "x").expect("retained");
    }
    backend
}

fn matching<B: Backend>(backend: &B, filter: &str) -> Vec<String> {
    let mut topics = Calls(backend.store()).retained(filter, 100, START);
    topics.sort();
    topics
}

// v5 [MQTT-3.3.1-5] v5 [MQTT-3.3.1-6]
pub(crate) fn a_retained_message_is_set_replaced_and_cleared<B: Backend>() {
    let mut backend = B::fresh();
    let payload = |backend: &B| {
        let page = wait(|done| backend.store().retained("t", None, 10, START, done)).expect("a page");
        page.messages
            .iter()
            .map(|found| String::from_utf8_lossy(found.payload_slice()).into_owned())
            .collect::<Vec<_>>()
    };
    Calls(backend.store()).retain("t", "1").expect("retained");
    assert_eq!(payload(&backend), ["1"]);
    Calls(backend.store()).retain("t", "22").expect("replaced");
    assert_eq!(payload(&backend), ["22"]);
    backend.restart(START);
    assert_eq!(payload(&backend), ["22"]);
    assert_eq!(backend.store().stats().retained_bytes, message("t", "22").size() as u64);
    Calls(backend.store()).retain("t", "").expect("cleared");
    Calls(backend.store()).retain("t", "").expect("cleared twice");
    assert!(payload(&backend).is_empty());
    backend.restart(START);
    assert!(payload(&backend).is_empty());
}

pub(crate) fn wildcards_match_levels<B: Backend>() {
    let backend = filled::<B>();
    assert_eq!(matching(&backend, "a/b"), ["a/b"]);
    assert_eq!(matching(&backend, "a/+"), ["a/", "a/b", "a/c"]);
    assert_eq!(matching(&backend, "+/c"), ["a/c", "ab/c"]);
    assert_eq!(matching(&backend, "a/+/c"), ["a//c", "a/b/c", "a/c/c"]);
    assert_eq!(matching(&backend, "a/#"), ["a", "a/", "a//c", "a/b", "a/b/c", "a/c", "a/c/c"]);
    assert_eq!(matching(&backend, "+"), ["a", "a-b"]);
    assert_eq!(matching(&backend, "+/+"), ["/", "/a", "a/", "a/b", "a/c", "ab/c", "é/ü"]);
    assert_eq!(matching(&backend, "/+"), ["/", "/a"]);
    assert_eq!(matching(&backend, "+/b/#"), ["a/b", "a/b/c"]);
    assert_eq!(matching(&backend, "é/#"), ["é/ü"]);
    assert!(matching(&backend, "b/#").is_empty());
}

// v5 [MQTT-4.7.2-1]
pub(crate) fn wildcards_do_not_match_dollar_topics_at_the_first_level<B: Backend>() {
    let backend = filled::<B>();
    assert_eq!(matching(&backend, "#").len(), TOPICS.len() - 2);
    assert!(matching(&backend, "+/x").is_empty());
    assert_eq!(matching(&backend, "$SYS/#"), ["$SYS", "$SYS/x"]);
    assert_eq!(matching(&backend, "$SYS/+"), ["$SYS/x"]);
}

pub(crate) fn pages_of_any_size_give_everything_once<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    for n in 0..60 {
        calls.retain(&format!("d/{}/{n}/t", n % 7), "x").expect("retained");
    }
    for filter in ["#", "d/#", "d/+/+/t", "d/3/#", "d/+/30/t"] {
        let all = calls.retained(filter, 1000, START);
        for page in [1, 2, 7, 59, 60] {
            let mut paged = calls.retained(filter, page, START);
            assert_eq!(paged.len(), all.len(), "{filter} in pages of {page}");
            paged.sort();
            paged.dedup();
            assert_eq!(paged.len(), all.len(), "nothing twice");
        }
    }
}

pub(crate) fn expired_messages_are_left_out_and_forgotten<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    for (topic, expiry) in [("a", Some(10)), ("b", None), ("c", Some(20))] {
        let message = Message::new(topic, &[], b"x", QoS::AtMostOnce, true, START).with_expiry(expiry);
        wait(|done| backend.store().retain(Arc::new(message), done)).expect("retained");
    }
    assert_eq!(calls.retained("#", 10, START + 9999), ["a", "b", "c"]);
    assert_eq!(calls.retained("#", 10, START + 10_000), ["b", "c"]);
    assert_eq!(calls.retained("#", 10, START + 20_000), ["b"]);
    assert_eq!(backend.store().stats().retained_messages, 1);
}

pub(crate) fn retained_messages_have_a_bound<B: Backend>() {
    let backend = B::start(Bounds { retained_messages_max: 2, ..Bounds::default() });
    let calls = Calls(backend.store());
    calls.retain("a", "1").expect("retained");
    calls.retain("b", "1").expect("retained");
    assert!(matches!(calls.retain("c", "1"), Err(StoreError::RetainedQuota)));
    calls.retain("a", "2").expect("replaced");
    calls.retain("c", "").expect("clearing nothing is no error");
    calls.retain("b", "").expect("cleared");
    calls.retain("c", "1").expect("there is room again");
}

pub(crate) fn retained_messages_have_so_many_bytes<B: Backend>() {
    let kilobyte = "x".repeat(1000);
    let sized = |topic: &str, expiry| {
        let message = Message::new(topic, &[], kilobyte.as_bytes(), QoS::AtLeastOnce, true, START);
        Arc::new(message.with_expiry(expiry))
    };
    let size = sized("a", None).size() as u64;
    let backend = B::start(Bounds { retained_bytes_max: 2 * size + 100, ..Bounds::default() });
    let calls = Calls(backend.store());
    let retain = |topic: &str, expiry| wait(|done| backend.store().retain(sized(topic, expiry), done));
    retain("a", None).expect("retained");
    retain("b", Some(10)).expect("retained");
    let is_full = || matches!(retain("c", None), Err(StoreError::RetainedQuota));
    assert!(is_full());
    assert_eq!(matching(&backend, "#"), ["a", "b"], "what is there stays");
    retain("a", None).expect("one that is no larger takes the place of another");
    assert!(matches!(calls.retain("a", &"x".repeat(2000)), Err(StoreError::RetainedQuota)), "larger");
    assert!(is_full());
    calls.retain("a", "").expect("cleared");
    retain("c", None).expect("there is room again");
    assert!(matches!(retain("d", None), Err(StoreError::RetainedQuota)));
    assert_eq!(calls.retained("#", 10, START + 10_000), ["c"], "one expires when it is read");
    retain("d", None).expect("there is room again");
    assert_eq!(backend.store().stats().retained_bytes, 2 * size);
    backend.check();
}

pub(crate) fn a_principal_retains_so_many_messages<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let is_refused =
        |topic: &str| matches!(calls.retain_as("few", 2, topic, "x"), Err(StoreError::RetainedQuota));
    for topic in ["a", "b", "a", "b"] {
        calls.retain_as("few", 2, topic, "x").expect("retained or replaced");
    }
    assert!(is_refused("c") && is_refused("d/e/f"));
    calls.retain_as("other", 2, "c", "x").expect("another's");
    calls.retain("d", "x").expect("nobody's");
    assert!(is_refused("c") && is_refused("d"), "what is another's would be one more");
    assert_eq!(matching(&backend, "#"), ["a", "b", "c", "d"]);

    // Cleared by anybody, replaced by another, or expired, it counts no more.
    calls.retain("a", "").expect("cleared");
    calls.retain_as("few", 2, "e", "x").expect("there is room again");
    assert!(is_refused("a"));
    calls.retain_as("other", 2, "b", "y").expect("replaced");
    let expiring = (*owned("few", 2, "a", "x")).clone().with_expiry(Some(10));
    wait(|done| backend.store().retain(Arc::new(expiring), done)).expect("there is room again");
    assert!(is_refused("f"));
    assert_eq!(calls.retained("a", 10, START + 10_000).len(), 0);
    calls.retain_as("few", 2, "f", "x").expect("there is room again");
    assert!(is_refused("a"));
    assert!(
        matches!(calls.retain_as("other", 2, "g", "x"), Err(StoreError::RetainedQuota)),
        "b is one of two"
    );
    backend.check();
}

// A value that waits for its place among its user's must not come after a later one, nor after the topic was cleared.
pub(crate) fn messages_of_one_topic_come_one_after_the_other<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    for round in 0..10 {
        let topics = [format!("kept/{round}"), format!("cleared/{round}")];
        let mut begun = Vec::new();
        for number in 0..5 {
            for topic in &topics {
                let message = owned("many", 100, topic, &format!("{number}"));
                begun.push(begin(|done| backend.store().retain(message, done)));
            }
        }
        begun.push(begin(|done| backend.store().retain(owned("many", 100, &topics[1], ""), done)));
        for answer in &begun {
            take(answer).expect("retained");
        }
        let page = wait(|done| backend.store().retained(&format!("+/{round}"), None, 10, START, done));
        let kept: Vec<_> = page.expect("a page").messages.iter().map(|message| message.payload()).collect();
        assert_eq!(kept, ["4"], "the last of one topic, none of the other");
    }
    assert!(calls.retain_as("many", 11, "more", "x").is_ok(), "what was cleared does not count");
    assert!(calls.retain_as("many", 11, "still", "x").is_err());
    backend.check();
}

/// v5 4.7.1, as directly as it can be written.
fn matches(filter: &[&str], topic: &[&str], is_first: bool) -> bool {
    match (filter, topic) {
        ([], []) => true,
        (["#"], rest) => !(is_first && rest.first().is_some_and(|level| level.starts_with('$'))),
        (["+", filter @ ..], [level, topic @ ..]) => {
            !(is_first && level.starts_with('$')) && matches(filter, topic, false)
        }
        ([wanted, filter @ ..], [level, topic @ ..]) => wanted == level && matches(filter, topic, false),
        _ => false,
    }
}

pub(crate) fn random_filters_match_like_the_definition<B: Backend>() {
    let level = prop_oneof!["", "a", "b", "a-", "\\$x", "ab"];
    let wild = prop_oneof![4 => level.clone().prop_map(String::from), 2 => Just("+".to_owned())];
    let topics = proptest::collection::vec(proptest::collection::vec(level, 1..4), 1..20);
    let filters = proptest::collection::vec((proptest::collection::vec(wild, 0..4), any::<bool>()), 1..20);
    let config = ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&(topics, filters, 1_usize..5), |(topics, filters, page)| {
            let backend = B::fresh();
            let calls = Calls(backend.store());
            let mut topics: Vec<String> = topics.iter().map(|topic| topic.join("/")).collect();
            topics.retain(|topic| !topic.is_empty());
            topics.sort();
            topics.dedup();
            for topic in &topics {
                calls.retain(topic, "x").expect("retained");
            }
            for (mut levels, is_open) in filters {
                if is_open || levels.is_empty() {
                    levels.push("#".to_owned());
                }
                let filter = levels.join("/");
                if filter.is_empty() {
                    continue;
                }
                let levels: Vec<&str> = filter.split('/').collect();
                let is_match =
                    |topic: &&String| matches(&levels, &topic.split('/').collect::<Vec<_>>(), true);
                let expected: Vec<&String> = topics.iter().filter(is_match).collect();
                let mut found = calls.retained(&filter, page, START);
                found.sort();
                prop_assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{}", filter);
            }
            Ok(())
        })
        .expect("filters match");
}
