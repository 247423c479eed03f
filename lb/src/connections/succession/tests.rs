//! Who comes after whom, who has to go, and when, without sockets.

use authsvc::Certificate;
use tokio::time::Instant;

use super::*;
use crate::tls::Shown;

fn successions(config: &EdgeConfig) -> Arc<Successions> {
    Arc::new(Successions::new(config, Arc::default()))
}

fn holder(client_id: &str) -> Holder {
    Holder::of(client_id)
}

fn certificate(fingerprint: &str) -> Option<Arc<Certificate>> {
    let (subject, distinguished_name) = ("".into(), "".into());
    let (alternative_names, fingerprint) = (vec![], fingerprint.into());
    Some(Arc::new(Certificate { subject, distinguished_name, alternative_names, fingerprint }))
}

#[test]
fn those_are_revoked_who_are_named_and_came_before() {
    let successions = successions(&EdgeConfig::default());
    let begin = |client_id: &str, subject: &str, token: &str| {
        let (subject, token_id) = (subject.into(), Mutex::new(Some(token.into())));
        let certificate = certificate(&format!("{client_id}{client_id}"));
        let holder = Holder { subject, token_id, certificate, ..holder(client_id) };
        Tenancy::begin(&successions, holder).expect("the last")
    };
    let tenancies =
        [begin("a", "alice", "1"), begin("b", "alice", "2"), begin("c", "bob", "3"), begin("d", "", "4")];
    let revoked = || tenancies.iter().map(|tenancy| tenancy.revoked().is_some()).collect::<Vec<_>>();
    let revoke = |target, at| {
        let reason = RevokeReason::CredentialsChanged;
        successions.revoke(&[Revocation { id: 1, target, reason, at, until: at }]);
    };
    let before = std::time::Instant::now() - Duration::from_secs(3600);
    let now = std::time::Instant::now();
    for target in [Target::User("".into()), Target::User("a".into()), Target::Token("9".into())] {
        revoke(target, now);
    }
    revoke(Target::User("alice".into()), before);
    assert_eq!(revoked(), [false; 4]);
    revoke(Target::ClientId("d".into()), now);
    assert_eq!(revoked(), [false, false, false, true]);
    revoke(Target::Certificate("cc".into()), now);
    assert_eq!(revoked(), [false, false, true, true]);
    revoke(Target::Token("2".into()), now);
    assert_eq!(revoked(), [false, true, true, true]);
    revoke(Target::User("alice".into()), now);
    assert_eq!(revoked(), [true; 4]);
    assert_eq!(tenancies[0].revoked(), Some(RevokeReason::CredentialsChanged));
}

#[test]
fn who_takes_its_place_after_it_was_revoked_goes_too() {
    let successions = successions(&EdgeConfig::default());
    let list = Revocations::default();
    let _ = successions.revocations.set(list.clone());
    let early = holder("a");
    list.revoke(Target::ClientId("a".into()), RevokeReason::Administrative, Duration::ZERO);
    let tenancy = Tenancy::begin(&successions, early).expect("the last");
    assert_eq!(tenancy.revoked(), Some(RevokeReason::Administrative));
}

#[test]
fn who_shows_another_token_goes_with_that_one() {
    let successions = successions(&EdgeConfig::default());
    let list = Revocations::default();
    let _ = successions.revocations.set(list.clone());
    let begin = |client_id: &str| {
        let token_id = Mutex::new(Some("first".into()));
        let tenancy = Tenancy::begin(&successions, Holder { token_id, ..holder(client_id) });
        tenancy.expect("the last")
    };
    let (stays, goes) = (begin("a"), begin("b"));
    let second = Arc::from("second");
    goes.renew(Some(&second));
    let revoke = |name: &str| {
        let target = Target::Token(name.into());
        list.revoke(target.clone(), RevokeReason::Administrative, Duration::from_secs(60));
        let at = std::time::Instant::now();
        let entry = Revocation { id: 1, target, reason: RevokeReason::Administrative, at, until: at };
        successions.revoke(&[entry]);
    };
    revoke("second");
    assert_eq!([stays.revoked(), goes.revoked()], [None, Some(RevokeReason::Administrative)]);
    // It was revoked while it was looked at.
    stays.renew(Some(&second));
    assert_eq!(stays.revoked(), Some(RevokeReason::Administrative));
    let left = begin("c");
    left.renew(None);
    revoke("first");
    assert_eq!(left.revoked(), None, "that token is not what it is here by");
}

fn begin(successions: &Arc<Successions>, client_id: &str) -> Tenancy {
    Tenancy::begin(successions, holder(client_id)).expect("the last")
}

/// Waits for its turn and takes over.
async fn take_over(tenancy: &Tenancy) {
    tenancy.wait().await.expect("its turn");
    tenancy.take_over().await;
    tenancy.is_served();
}

/// Hands over what it has received when it is asked.
async fn hand_over(tenancy: &Tenancy) {
    let asked = async {
        while !tenancy.is_asked() {
            time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(2 * PATIENCE, asked).await.expect("it is asked");
    tenancy.has_read_out();
}

#[tokio::test(start_paused = true)]
async fn a_connection_waits_for_the_one_before_it_and_no_other() {
    let successions = successions(&EdgeConfig::default());
    let first = begin(&successions, "a");
    first.is_served();
    assert!(!begin(&successions, "b").is_behind());
    let second = begin(&successions, "a");
    assert!(second.is_behind());
    let began = Instant::now();
    let (_, end) = tokio::join!(take_over(&second), async {
        assert!(!second.is_asked());
        first.has_read_out();
        first.into_end()
    });
    assert_eq!(began.elapsed(), Duration::ZERO);
    drop(end);
    let third = begin(&successions, "a");
    let before = third.place.before().expect("the second");
    assert!(Arc::ptr_eq(&before, &second.place), "the first has not taken it along");
    drop((second, third));
    assert!(!begin(&successions, "a").is_behind());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_does_not_answer_is_waited_for_no_longer_than_that() {
    let successions = successions(&EdgeConfig::default());
    let silent = begin(&successions, "a");
    silent.is_served();
    let next = begin(&successions, "a");
    let began = Instant::now();
    take_over(&next).await;
    assert_eq!(began.elapsed(), PATIENCE);
    assert!(silent.is_asked() && silent.is_dismissed());
}

#[test]
fn one_that_was_accepted_earlier_takes_nothing_over() {
    let (successions, since) = (successions(&EdgeConfig::default()), std::time::Instant::now());
    let early = || Holder { since, ..holder("a") };
    let late = begin(&successions, "a");
    assert!(Tenancy::begin(&successions, early()).is_none());
    drop(late);
    assert!(Tenancy::begin(&successions, early()).is_some());
}

#[tokio::test(start_paused = true)]
async fn as_many_takeovers_as_the_burst_do_not_wait_and_each_of_the_others_does() {
    for burst in [1, 2, 5] {
        let config = EdgeConfig { takeover_burst: burst, ..EdgeConfig::default() };
        let interval = config.takeover_interval();
        let successions = successions(&config);
        let mut last = begin(&successions, "a");
        last.is_served();
        for number in 1..burst + 4 {
            let next = begin(&successions, "a");
            let waited = Instant::now();
            tokio::join!(take_over(&next), hand_over(&last));
            last = next;
            let expected = if number > burst { interval } else { Duration::ZERO };
            let waited = waited.elapsed();
            assert!(waited.abs_diff(expected) < interval / 5, "{number} of {burst}: {waited:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_goes_while_it_waits_leaves_its_place_to_the_next() {
    let successions = successions(&EdgeConfig::default());
    let first = begin(&successions, "a");
    first.is_served();
    let (gone, next) = (begin(&successions, "a"), begin(&successions, "a"));
    drop(gone);
    next.wait().await.expect("its turn");
    assert!(Arc::ptr_eq(&next.place.before().expect("the first"), &first.place));
    tokio::join!(take_over(&next), hand_over(&first));
    assert!(next.place.has(SERVED) && first.place.has(READ_OUT));
}

/// A connection that can be revoked by whatever there is, and one of the same kind that takes it over.
async fn taken_over(successions: &Arc<Successions>) -> (Tenancy, Tenancy) {
    let begin = || {
        let (subject, token_id) = ("alice".into(), Mutex::new(Some("1".into())));
        let (certificate, shown) = (certificate("print"), Some(Arc::new(Shown::distrusted())));
        let holder = Holder { subject, token_id, certificate, shown, ..holder("a") };
        let tenancy = Tenancy::begin(successions, holder).expect("the last");
        // It was trusted when it came.
        tenancy.place.flags.store(0, Ordering::Release);
        tenancy
    };
    let first = begin();
    first.is_served();
    (first, begin())
}

fn targets() -> [Option<Target>; 5] {
    [
        Some(Target::User("alice".into())),
        Some(Target::ClientId("a".into())),
        Some(Target::Token("1".into())),
        Some(Target::Certificate("print".into())),
        // What it has shown is not trusted any more.
        None,
    ]
}

fn revoke(successions: &Successions, target: Option<Target>) {
    let Some(target) = target else {
        assert!(successions.revoke_distrusted() > 0);
        return;
    };
    let (reason, at) = (RevokeReason::Administrative, std::time::Instant::now());
    successions.revoke(&[Revocation { id: 1, target, reason, at, until: at }]);
}

#[tokio::test(start_paused = true)]
async fn who_was_to_be_taken_over_by_one_that_ended_first_can_be_revoked() {
    for target in targets() {
        let successions = successions(&EdgeConfig::default());
        let (first, refused) = taken_over(&successions).await;
        tokio::join!(take_over(&refused), hand_over(&first));
        drop(refused);
        revoke(&successions, target.clone());
        assert!(first.revoked().is_some(), "{target:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_connections_of_a_client_are_revoked_whoever_waits_or_opens() {
    for target in targets() {
        for is_opening in [false, true] {
            let successions = successions(&EdgeConfig::default());
            let (first, next) = taken_over(&successions).await;
            if is_opening {
                tokio::join!(take_over(&next), hand_over(&first));
            }
            revoke(&successions, target.clone());
            assert!(first.revoked().is_some() && next.revoked().is_some(), "{target:?} {is_opening}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_one_finds_who_was_to_be_taken_over_by_one_that_ended_first() {
    let successions = successions(&EdgeConfig::default());
    let first = begin(&successions, "a");
    first.is_served();
    let refused = begin(&successions, "a");
    tokio::join!(take_over(&refused), hand_over(&first));
    drop(refused);
    assert!(!first.is_asked(), "nobody waits for it");
    // It was asked by one that has gone.
    first.has_read_out();
    let next = begin(&successions, "a");
    assert!(Arc::ptr_eq(&next.place.before().expect("the first"), &first.place));
    tokio::join!(take_over(&next), hand_over(&first));
    drop((next, first));
    assert!(successions.places.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_waits_behind_one_that_is_refused_asks_who_was_there_before() {
    let successions = successions(&EdgeConfig::default());
    let first = begin(&successions, "a");
    first.is_served();
    let refused = begin(&successions, "a");
    tokio::join!(take_over(&refused), hand_over(&first));
    let next = begin(&successions, "a");
    next.wait().await.expect("its turn");
    drop(refused);
    tokio::join!(next.take_over(), hand_over(&first));
    assert!(first.place.has(READ_OUT));
}

#[test]
fn an_entry_that_is_told_late_hides_no_newer_one() {
    let successions = successions(&EdgeConfig::default());
    let tenancy = Tenancy::begin(&successions, Holder { subject: "alice".into(), ..holder("a") });
    let tenancy = tenancy.expect("the last");
    let now = std::time::Instant::now();
    let entry = |at| {
        let (target, reason) = (Target::User("alice".into()), RevokeReason::Administrative);
        Revocation { id: 1, target, reason, at, until: at }
    };
    successions.revoke(&[entry(now), entry(now - Duration::from_secs(3_600))]);
    assert!(tenancy.revoked().is_some());
}

#[tokio::test(start_paused = true)]
async fn of_those_that_wait_the_newest_is_left() {
    let config = EdgeConfig { takeover_burst: 1, takeover_interval_ms: 60_000, ..EdgeConfig::default() };
    let successions = successions(&config);
    let first = begin(&successions, "a");
    first.is_served();
    let second = begin(&successions, "a");
    tokio::join!(take_over(&second), hand_over(&first));
    let since = Instant::now();
    let waits = begin(&successions, "a");
    let newest = async {
        time::sleep(Duration::from_secs(1)).await;
        let newest = begin(&successions, "a");
        (newest.wait().await, newest)
    };
    let replaced = async {
        let turn = waits.wait().await;
        drop(waits);
        (turn, since.elapsed().as_secs())
    };
    let (replaced, (turn, newest)) = tokio::join!(replaced, newest);
    assert_eq!(replaced, (Err(NoTurn::Replaced), 1));
    assert_eq!((turn, since.elapsed().as_secs()), (Ok(()), 60));
    // It has its turn, so that whoever comes waits for it.
    let late = begin(&successions, "a");
    assert!(!newest.place.has(REPLACED));
    revoke(&successions, Some(Target::ClientId("a".into())));
    assert_eq!(late.wait().await, Err(NoTurn::Revoked));
}
