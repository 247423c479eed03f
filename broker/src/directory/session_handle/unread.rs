//! What waits for the device of a session: how much, and what of it need not be kept when the process has too much memory.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use mqtt::QoS;
use state::Delivery;

use super::{Attachment, Item, SessionHandle};
use crate::session::Input;

/// With more bytes than this that wait for it a session is listed, so that nobody has to look for it.
pub(crate) const HEAVY_BYTES: usize = 256 << 10;

/// What is left of `items` without messages that need not be kept: those of QoS 0, which go to `dropped`, and the bodies of those
/// that are in the stored queue, of which the last number is left.
pub(crate) fn thin_out(items: VecDeque<Item>, dropped: &mut Vec<Delivery>) -> VecDeque<Item> {
    let mut left = VecDeque::new();
    let mut last = None;
    for item in items {
        match item {
            Item::Input(Input::Deliver(delivery)) if delivery.qos == QoS::AtMostOnce => {
                dropped.push(delivery);
            }
            Item::Input(Input::DeliverStored(number, _) | Input::Missed(number)) => {
                last = last.max(Some(number));
            }
            item => left.push_back(item),
        }
    }
    left.extend(last.map(|number| Input::Missed(number).into()));
    left
}

impl SessionHandle {
    /// So many bytes wait in the session itself. Answers whether it is to be listed by that.
    pub(crate) fn set_held(&self, bytes: usize) -> bool {
        if self.held_bytes.load(Ordering::Relaxed) != bytes {
            self.held_bytes.store(bytes, Ordering::Relaxed);
        }
        self.becomes_heavy(bytes)
    }

    /// Whether it is to be listed among those of which much waits, and is not.
    pub(super) fn becomes_heavy(&self, bytes: usize) -> bool {
        bytes > HEAVY_BYTES
            && !self.is_heavy.load(Ordering::Relaxed)
            && !self.is_heavy.swap(true, Ordering::Relaxed)
    }

    /// It is listed no more.
    pub(crate) fn set_light(&self) {
        self.is_heavy.store(false, Ordering::Relaxed);
    }

    /// Bytes of the messages that wait for the device.
    pub(crate) fn unread_bytes(&self) -> usize {
        let waiting = {
            let mailbox = self.mailbox.lock();
            mailbox.bytes + mailbox.backlog_bytes
        };
        waiting + self.held_bytes.load(Ordering::Relaxed)
    }

    /// Lets go of messages that need not be kept for the device: those of QoS 0, which go to `dropped`, and the bodies of those
    /// that are in its stored queue. What its task has taken, that is to let go of. Answers the bytes.
    pub(crate) fn shed(&self, dropped: &mut Vec<Delivery>) -> usize {
        let mut mailbox = self.mailbox.lock();
        let before = mailbox.bytes;
        let items = std::mem::take(&mut mailbox.items);
        mailbox.items = thin_out(items, dropped);
        mailbox.bytes = mailbox.items.iter().map(Item::bytes).sum();
        let mut freed = before - mailbox.bytes;
        let mut waker = None;
        if mailbox.backlog_bytes > 0 && !std::mem::replace(&mut mailbox.is_shed, true) {
            freed += mailbox.backlog_bytes;
            waker = mailbox.waker.take();
        }
        drop(mailbox);
        if let Some(waker) = waker {
            waker.wake();
        }
        freed
    }

    /// Whether what the connection has taken and not used yet is to be thinned out; once.
    pub(crate) fn take_shed(&self, attachment: Attachment) -> bool {
        let mut mailbox = self.mailbox.lock();
        mailbox.has(attachment) && std::mem::take(&mut mailbox.is_shed)
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use link::ConnectionId;
    use state::Number;

    use super::*;
    use crate::directory::session_handle::Posted;
    use crate::session::testing::delivery;

    #[test]
    fn what_need_not_be_kept_is_let_go_of() {
        let session = SessionHandle::new(1, "c".into(), None);
        let attachment = session.attach(ConnectionId(1), false);
        let of = |qos| delivery("t", &[b'x'; 100_000], qos);
        assert_eq!(session.deliver(of(QoS::AtMostOnce), usize::MAX), Posted::Yes);
        session.deliver_stored(Number(1), of(QoS::AtLeastOnce), usize::MAX);
        assert_eq!(session.deliver(of(QoS::AtLeastOnce), usize::MAX), Posted::Heavy);
        assert!(!session.deliver_stored(Number(2), of(QoS::AtLeastOnce), usize::MAX), "it is listed");
        assert!(session.unread_bytes() > 400_000);
        let mut dropped = Vec::new();
        let freed = session.shed(&mut dropped);
        assert!(freed > 300_000 && dropped.len() == 1, "{freed} bytes");
        let mut cx = Context::from_waker(Waker::noop());
        let (items, bytes) = session.poll_take(attachment, &mut cx).unwrap().unwrap();
        let items = items.into_iter().collect::<Vec<_>>();
        let [Item::Input(Input::Deliver(kept)), Item::Input(last)] = &items[..] else { panic!("{items:?}") };
        assert!(kept.qos == QoS::AtLeastOnce && matches!(last, Input::Missed(Number(2))));
        // What the task has taken it is to thin out itself, once.
        session.set_backlog(attachment, bytes);
        assert!(!session.take_shed(attachment));
        assert_eq!((session.shed(&mut dropped), session.shed(&mut dropped)), (bytes, 0));
        assert!(session.take_shed(attachment) && !session.take_shed(attachment));
    }
}
