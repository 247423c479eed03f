//! The order of what waits for a store, against stores that refuse and answer when it suits them.

use std::sync::Arc;

use proptest::prelude::*;

use super::{Line, SessionStep, Ticket, TrackOf, Waits};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// The so many-th message of a publisher.
    Message(u64, usize),
    /// What is retained for a topic.
    Retained(&'static str, u32),
    /// What is done with the session of a client, the so many-th time.
    Session(Arc<str>, SessionStep, usize),
}

impl Waits for Piece {
    fn publisher(&self) -> Option<u64> {
        if let Self::Message(publisher, _) = self { Some(*publisher) } else { None }
    }

    fn keeps_place(&self) -> bool {
        false
    }

    fn retains(&self) -> Option<&str> {
        if let Self::Retained(topic, _) = self { Some(topic) } else { None }
    }

    fn session(&self) -> Option<(&Arc<str>, SessionStep)> {
        if let Self::Session(client, step, _) = self { Some((client, *step)) } else { None }
    }
}

fn message(number: usize) -> Piece {
    Piece::Message(1, number)
}

/// Tries one track again with a store that takes so many pieces and refuses the next one. Answers what it took.
fn retry(line: &mut Line<Piece>, of: TrackOf, takes: usize) -> Vec<Piece> {
    let mut taken = Vec::new();
    let count = line.begin_retry(of);
    for _ in 0..count {
        let Some((ticket, piece)) = line.pop(of) else { break };
        let client = piece.session().map(|(client, _)| Arc::clone(client));
        if taken.len() < takes {
            if let Some(publisher) = piece.publisher() {
                line.leave(publisher, ticket);
            }
            taken.push(piece);
        } else {
            line.refused(Some(ticket), piece);
        }
        if !line.handed_on(of, client.as_ref()) {
            break;
        }
    }
    if count > 0 {
        line.end_retry(of);
    }
    taken
}

#[test]
fn a_store_that_was_away_is_asked_with_one_piece_first() {
    let mut line = Line::default();
    let (ticket, first) = line.submit(message(0)).expect("nothing waits");
    line.refused(Some(ticket), first);
    for number in 1..4 {
        assert!(line.submit(message(number)).is_none(), "it would overtake");
    }
    assert_eq!(retry(&mut line, TrackOf::Messages, 0), []);
    assert_eq!(line.len(), 4);
    assert_eq!(retry(&mut line, TrackOf::Messages, 9), [message(0)], "one alone");
    assert!(line.submit(message(4)).is_none(), "the probe is not answered for certain");
    assert_eq!(retry(&mut line, TrackOf::Messages, 9), (1..5).map(message).collect::<Vec<_>>());
    assert!(line.is_idle() && line.submit(message(5)).is_some());
}

#[test]
fn what_is_refused_while_the_rest_is_handed_on_keeps_its_place() {
    let mut line = Line::default();
    let (ticket, first) = line.submit(message(0)).expect("nothing waits");
    line.refused(Some(ticket), first);
    (1..5).for_each(|number| assert!(line.submit(message(number)).is_none()));
    assert_eq!(retry(&mut line, TrackOf::Messages, 1), [message(0)]);
    assert_eq!(retry(&mut line, TrackOf::Messages, 2), [message(1), message(2)]);
    assert_eq!(retry(&mut line, TrackOf::Messages, 1), [message(3)], "a probe again");
    assert_eq!(retry(&mut line, TrackOf::Messages, 9), [message(4)]);
    assert!(line.is_idle());
}

#[test]
fn only_the_newest_of_what_is_to_be_retained_can_be_replaced() {
    let mut line = Line::default();
    let pieces = [1, 2].map(|number| Piece::Retained("t", number));
    let (ticket, first) = line.submit(pieces[0].clone()).expect("nothing waits");
    line.refused(Some(ticket), first);
    assert!(line.submit(pieces[1].clone()).is_none());
    assert_eq!(line.retained_mut("t"), Some(&mut pieces[1].clone()));
    assert_eq!(line.retained_mut("u"), None);
    assert_eq!(retry(&mut line, TrackOf::Messages, 9), pieces[..1]);
    assert_eq!(retry(&mut line, TrackOf::Messages, 9), pieces[1..]);
    assert_eq!(line.retained_mut("t"), None);
}

#[test]
fn a_claim_waits_for_the_release_before_it_and_a_resume_for_nothing() {
    let client: Arc<str> = "c".into();
    let piece = |step| Piece::Session(Arc::clone(&client), step, 0);
    let mut line = Line::default();
    let released = line.submit(piece(SessionStep::Release)).expect("nothing waits");
    assert!(line.submit(piece(SessionStep::Claim)).is_none());
    assert!(line.submit(piece(SessionStep::Resume)).is_some());
    line.refused(Some(released.0), released.1);
    line.release_answered(&client);
    assert!(line.pop_behind(&client).is_none(), "the release is held, and the claim behind it");
    assert_eq!(retry(&mut line, TrackOf::Sessions, 9), [piece(SessionStep::Release)]);
    assert_eq!(retry(&mut line, TrackOf::Sessions, 9), [], "the release has no answer");
    line.release_answered(&client);
    assert_eq!(line.pop_behind(&client).map(|(_, piece)| piece), Some(piece(SessionStep::Claim)));
    line.passed_on(&client);
    assert!(line.pop_behind(&client).is_none() && line.clients.is_empty());
}

#[derive(Clone, Debug)]
enum Event {
    Publish(u64),
    Session(usize, SessionStep),
    /// The oldest call that is under way is answered.
    Answer,
    Away(bool),
    Tick,
}

fn event() -> impl Strategy<Value = Event> {
    let step = prop_oneof![Just(SessionStep::Claim), Just(SessionStep::Release)];
    prop_oneof![
        4 => (0..3_u64).prop_map(Event::Publish),
        4 => (0..2_usize, step).prop_map(|(client, step)| Event::Session(client, step)),
        4 => Just(Event::Answer),
        1 => any::<bool>().prop_map(Event::Away),
        2 => Just(Event::Tick),
    ]
}

/// A store that answers calls later, in their order, and refuses all of them from the moment at which it goes away.
#[derive(Default)]
struct World {
    line: Line<Piece>,
    under_way: Vec<(Ticket, Piece)>,
    done: Vec<Piece>,
    is_away: bool,
}

impl World {
    fn ask(&mut self, ticket: Ticket, piece: Piece) {
        if self.is_away {
            self.answer(ticket, piece);
        } else {
            self.check_alone(&piece);
            self.under_way.push((ticket, piece));
        }
    }

    /// A claim is not asked while a release of the same session is.
    fn check_alone(&self, piece: &Piece) {
        if let Piece::Session(client, SessionStep::Claim, _) = piece {
            let is_release =
                |other: &Piece| matches!(other, Piece::Session(of, SessionStep::Release, _) if of == client);
            assert!(!self.under_way.iter().any(|(_, other)| is_release(other)), "{piece:?}");
        }
    }

    fn answer(&mut self, ticket: Ticket, piece: Piece) {
        let released = match piece.session() {
            Some((client, SessionStep::Release)) => Some(Arc::clone(client)),
            _ => None,
        };
        if self.is_away {
            self.line.refused(Some(ticket), piece);
        } else {
            self.done.push(piece);
        }
        let Some(client) = released else { return };
        self.line.release_answered(&client);
        while let Some((ticket, piece)) = self.line.pop_behind(&client) {
            self.ask(ticket, piece);
            self.line.passed_on(&client);
        }
    }

    fn answer_all(&mut self) {
        while !self.under_way.is_empty() {
            let (ticket, piece) = self.under_way.remove(0);
            self.answer(ticket, piece);
        }
    }

    fn tick(&mut self) {
        for of in [TrackOf::Messages, TrackOf::Sessions] {
            let count = self.line.begin_retry(of);
            for _ in 0..count {
                let Some((ticket, piece)) = self.line.pop(of) else { break };
                let publisher = piece.publisher();
                let client = piece.session().map(|(client, _)| Arc::clone(client));
                self.ask(ticket, piece);
                if let Some(publisher) = publisher {
                    self.line.leave(publisher, ticket);
                }
                if !self.line.handed_on(of, client.as_ref()) {
                    break;
                }
            }
            if count > 0 {
                self.line.end_retry(of);
            }
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_or_done_twice_or_overtakes_an_older_one(events in prop::collection::vec(event(), 1..80)) {
        let mut world = World::default();
        let mut asked = Vec::new();
        for event in events {
            match event {
                Event::Publish(publisher) => {
                    let number = asked.len();
                    asked.push(Piece::Message(publisher, number));
                }
                Event::Session(client, step) => {
                    let number = asked.len();
                    asked.push(Piece::Session(["a", "b"][client].into(), step, number));
                }
                Event::Answer if !world.under_way.is_empty() => {
                    let (ticket, piece) = world.under_way.remove(0);
                    world.answer(ticket, piece);
                    continue;
                }
                Event::Answer => continue,
                Event::Away(is_away) => {
                    world.is_away = is_away;
                    // A store that is away refuses what it was asked before, and does not come back in between.
                    world.answer_all();
                    continue;
                }
                Event::Tick => {
                    world.tick();
                    continue;
                }
            }
            let piece = asked[asked.len() - 1].clone();
            if let Some((ticket, piece)) = world.line.submit(piece) {
                world.ask(ticket, piece);
            }
        }
        world.is_away = false;
        for _ in 0..2 * asked.len() + 4 {
            world.answer_all();
            world.tick();
        }
        world.answer_all();
        prop_assert_eq!(world.line.len(), 0);
        prop_assert!(world.line.is_idle() && world.line.in_line.is_empty() && world.line.clients.is_empty());
        prop_assert_eq!(world.done.len(), asked.len());
        for publisher in 0..3 {
            let of = |pieces: &[Piece]| -> Vec<Piece> {
                pieces.iter().filter(|piece| piece.publisher() == Some(publisher)).cloned().collect()
            };
            prop_assert_eq!(of(&world.done), of(&asked));
        }
        for client in ["a", "b"] {
            let is_of = |piece: &&Piece| matches!(piece.session(), Some((of, _)) if **of == *client);
            let mut done: Vec<Piece> = world.done.iter().filter(is_of).cloned().collect();
            done.sort_by_key(|piece| if let Piece::Session(.., number) = piece { *number } else { 0 });
            let asked: Vec<Piece> = asked.iter().filter(is_of).cloned().collect();
            prop_assert_eq!(done, asked, "each once");
        }
    }
}
