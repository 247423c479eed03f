//! Retained messages that are large.

use std::sync::Arc;

use mqtt::QoS;
use state::{Cursor, Message, RetainedPage, Store};

use crate::harness::{START, begin, take, wait};
use crate::stores::{InRedis, config_for, shared_server};

const MIB: usize = 1 << 20;
/// Messages that a worker asks for at once.
const MESSAGES_MAX: usize = 256;
/// In each of two buckets.
const MESSAGES: usize = 6;
/// As many as one call has operations, and some.
const READERS: usize = 20;

#[test]
fn pages_of_large_messages_are_small_and_all_come_however_many_read() {
    let redis = InRedis::open(config_for(shared_server()));
    let store = redis.store();
    let body = vec![b'x'; MIB];
    let topic = |n: usize| format!("large/{}/{n}", n % 2);
    for n in 0..2 * MESSAGES {
        let message = Message::new(&topic(n), &[], &body, QoS::AtLeastOnce, true, START);
        wait(|done| store.retain(Arc::new(message), done)).expect("retained");
    }
    let mut all: Vec<String> = (0..2 * MESSAGES).map(topic).collect();
    all.sort_unstable();
    let ask = |cursor: Option<Cursor>| {
        begin(move |done| store.retained("large/#", cursor, MESSAGES_MAX, START, done))
    };
    let mut reading: Vec<_> = (0..READERS).map(|_| (Vec::new(), Some(ask(None)))).collect();
    while reading.iter().any(|(_, asked)| asked.is_some()) {
        for (topics, asked) in &mut reading {
            let Some(answer) = asked.take() else { continue };
            let RetainedPage { messages, next } = take(&answer).expect("a page");
            let bytes: usize = messages.iter().map(|message| message.size()).sum();
            assert!(bytes <= 3 * MIB, "{bytes} bytes in a page");
            topics.extend(messages.iter().map(|message| message.topic().to_owned()));
            *asked = next.map(|cursor| ask(Some(cursor)));
        }
    }
    for (mut topics, _) in reading {
        topics.sort_unstable();
        assert_eq!(topics, all);
    }
}
