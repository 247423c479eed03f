//! Lists of who has to go: what they say, tell and keep.

use std::time::{Duration, Instant};

use super::feed::Feed;
use super::file::LastingEntry;
use super::list::{ENTRIES_MAX, TOLD_MAX};
use super::*;

const FINGERPRINT: &str = "00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff";
const WRITTEN_BY_OPENSSL: &str =
    "00:FF:00:FF:00:FF:00:FF:00:FF:00:FF:00:FF:00:FF:00:FF:00:FF:00:FF:00:FF:00:FF:00:FF:00:FF:00:FF";

fn bearer<'a>(user: &'a str, client_id: &'a str) -> Bearer<'a> {
    Bearer { user, client_id, token_id: Some("t"), certificate: Some(FINGERPRINT) }
}

#[test]
fn an_entry_is_about_those_that_it_names_and_came_before() {
    let list = Revocations::default();
    let before = Instant::now();
    list.revoke(Target::User("alice".into()), RevokeReason::CredentialsChanged, Duration::ZERO);
    let after = Instant::now() + Duration::from_millis(1);
    assert_eq!(list.verdict(&bearer("alice", "a"), before), Some(RevokeReason::CredentialsChanged));
    assert_eq!(list.verdict(&bearer("alice", "a"), after), None, "she may come again");
    assert_eq!(list.verdict(&bearer("bob", "alice"), before), None);
    assert_eq!(list.verdict(&bearer("", "a"), before), None);
}

#[test]
fn nobody_new_comes_while_an_entry_lasts() {
    for target in ["user", "client_id", "token", "certificate"] {
        let list = Revocations::default();
        let name = if target == "certificate" { WRITTEN_BY_OPENSSL } else { "t" };
        let order = format!(r#"{{"{target}":"{name}","lasts_s":60}}"#);
        RevokeOrder::carry_out(order.as_bytes(), &list).unwrap();
        let later = Instant::now() + Duration::from_secs(1);
        assert_eq!(list.verdict(&bearer("t", "t"), later), Some(RevokeReason::Administrative), "{target}");
        let other = Bearer { user: "u", client_id: "c", token_id: None, certificate: None };
        assert_eq!(list.verdict(&other, later), None);
    }
}

#[test]
fn orders_are_refused_that_name_nothing_or_two() {
    let list = Revocations::default();
    for wrong in [
        "",
        "{}",
        r#"{"user":"a","client_id":"b"}"#,
        r#"{"user":""}"#,
        r#"{"usr":"a"}"#,
        r#"{"certificate":"00ff"}"#,
        r#"{"certificate":"not the fingerprint of a certificate, though as long as one is, 64"}"#,
        r#"{"user":"a","lasts_s":-1}"#,
        r#"{"user":"a","lasts_s":31536001}"#,
    ] {
        assert!(RevokeOrder::carry_out(wrong.as_bytes(), &list).is_err(), "{wrong}");
    }
    assert_eq!(list.since(0).newest, 0);
}

#[test]
fn what_an_operator_revoked_for_longer_is_in_force_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("revoked");
    let start = || {
        let list = Revocations::default();
        list.keep_in(&path).unwrap();
        list
    };
    let list = start();
    for order in [
        r#"{"user":"alice","lasts_s":60}"#,
        r#"{"client_id":"brief"}"#,
        r#"{"token":"t1","lasts_s":3600}"#,
        r#"{"user":"alice","lasts_s":1}"#,
    ] {
        RevokeOrder::carry_out(order.as_bytes(), &list).unwrap();
    }
    list.revoke(Target::User("bob".into()), RevokeReason::CredentialsChanged, Duration::from_secs(60));
    for _ in 0..2 {
        let list = start();
        let now = Instant::now() + Duration::from_millis(1);
        let why = |user, client_id| {
            let bearer = Bearer { user, client_id, token_id: None, certificate: None };
            list.verdict(&bearer, now)
        };
        assert_eq!(why("alice", "a"), Some(RevokeReason::Administrative));
        assert_eq!((why("u", "brief"), why("bob", "b")), (None, None));
        let feed = Feed::new(&list, 0);
        assert_eq!(feed.revocations.len(), 2);
        let longest = feed.revocations.iter().map(|entry| entry.lasts_ms).max().unwrap();
        assert!((3_590_000..=3_601_000).contains(&longest), "{longest} ms");
    }
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}{{\"user\":\"x\"}}\n")).unwrap();
    let problem = Revocations::default().keep_in(&path).unwrap_err();
    assert!(problem.contains("revoked\" line 3: missing field"), "{problem}");
    // What has ended is left out, and forgotten with the next order.
    std::fs::write(&path, "{\"user\":\"alice\",\"at_s\":1,\"until_s\":61}\n").unwrap();
    let list = start();
    assert_eq!((list.since(0).newest, std::fs::read_to_string(&path).unwrap()), (0, String::new()));
    // Whoever wrote it, nothing is revoked for longer than it may be.
    std::fs::write(&path, format!("{{\"user\":\"alice\",\"at_s\":0,\"until_s\":{}}}\n", u64::MAX)).unwrap();
    let lasts_ms = Feed::new(&start(), 0).revocations[0].lasts_ms;
    assert!(lasts_ms <= REVOKED_S_MAX * 1_000, "{lasts_ms} ms");
    // A clock that was set back makes nothing last longer.
    let now_s = LastingEntry::new(Target::User("x".into()), Duration::ZERO, Duration::ZERO);
    let text = serde_json::to_string(&now_s).unwrap().replace("at_s\":", "at_s\":9");
    let ahead: LastingEntry = serde_json::from_str(&text.replace("until_s\":", "until_s\":9")).unwrap();
    assert!(ahead.times().is_none_or(|(age, lasts)| age.is_zero() && lasts <= Duration::from_secs(1)));

    std::fs::remove_dir_all(dir.path()).unwrap();
    let order = br#"{"user":"carl","lasts_s":60}"#;
    assert!(matches!(RevokeOrder::carry_out(order, &list), Err(RevokeError::NotKept(_))));
    assert!(list.verdict(&bearer("carl", "c"), Instant::now()).is_some(), "it is in force all the same");
}

#[test]
fn what_a_source_says_later_takes_nothing_out_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("revoked");
    let (list, restarted) = (Revocations::default(), Revocations::default());
    list.keep_in(&path).unwrap();
    RevokeOrder::carry_out(br#"{"user":"alice","lasts_s":3600}"#, &list).unwrap();
    let day = Duration::from_secs(86_400);
    list.revoke(Target::User("alice".into()), RevokeReason::CredentialsChanged, day);
    RevokeOrder::carry_out(br#"{"user":"bob","lasts_s":60}"#, &list).unwrap();
    restarted.keep_in(&path).unwrap();
    let feed = Feed::new(&restarted, 0);
    let names: Vec<_> = feed.revocations.iter().map(|entry| entry.target.name()).collect();
    assert_eq!(names, ["alice", "bob"]);
    let lasts_ms = feed.revocations[0].lasts_ms;
    assert!(
        (3_590_000..=3_601_000).contains(&lasts_ms),
        "{lasts_ms} ms: what the operator said, not the source"
    );
}

#[tokio::test]
async fn who_follows_is_told_each_entry_once_and_its_age() {
    let (list, follower) = (Revocations::default(), Revocations::default());
    let waiting = tokio::spawn({
        let list = list.clone();
        async move { list.changed(0).await }
    });
    list.revoke(Target::ClientId("a".into()), RevokeReason::Administrative, Duration::from_secs(60));
    waiting.await.unwrap();
    let before = Instant::now();
    let json = serde_json::to_string(&Feed::new(&list, 0)).unwrap();
    let feed: Feed = serde_json::from_str(&json).unwrap();
    assert!(json.contains(r#""client_id":"a""#), "{json}");
    assert_eq!((feed.newest, feed.revocations.len(), feed.has_missed), (1, 1, false));
    for entry in feed.revocations {
        entry.add_to(&follower);
    }
    assert!(follower.verdict(&bearer("x", "a"), before).is_some());
    let feed = Feed::new(&list, 1);
    assert!(feed.revocations.is_empty() && feed.newest == 1);
}

#[tokio::test]
async fn other_rules_are_told_without_an_entry() {
    let list = Revocations::default();
    list.name_rules(&"one".into());
    list.name_rules(&"one".into());
    assert_eq!((list.since(0).newest, list.since(0).rules_changed), (0, 0));
    list.revoke(Target::ClientId("a".into()), RevokeReason::Administrative, Duration::ZERO);
    list.name_rules(&"two".into());
    list.changed(1).await;
    let told = list.since(0);
    assert_eq!((told.newest, told.rules_changed, told.entries.len()), (2, 2, 1));
    assert!(list.since(2).entries.is_empty() && list.since(2).newest == 2);
    assert_eq!(Feed::new(&list, 2).rules, "two");
    let older: Feed =
        serde_json::from_str(r#"{"replica":"r","newest":0,"has_missed":false,"revocations":[]}"#).unwrap();
    assert_eq!(older.rules, "", "a service need not say");
}

// An edge follows several replicas, and one of them may be late.
#[test]
fn what_is_told_late_takes_nothing_back() {
    let (follower, now) = (Revocations::default(), Instant::now());
    let ago = |ms| now - Duration::from_millis(ms);
    for (reason, at) in [(RevokeReason::Administrative, now), (RevokeReason::CredentialsChanged, ago(60))] {
        follower.add(Target::User("alice".into()), reason, at, now);
    }
    assert!(follower.verdict(&bearer("alice", "a"), ago(30)).is_some());
}

#[test]
fn the_list_has_a_bound_and_says_what_it_has_lost() {
    let list = Revocations::default();
    for n in 0..=ENTRIES_MAX {
        let target = Target::ClientId(n.to_string().into());
        list.revoke(target, RevokeReason::Administrative, Duration::from_secs(60));
    }
    assert_eq!(list.remembered(), (ENTRIES_MAX, ENTRIES_MAX));
    let told = list.since(0);
    assert_eq!((told.entries.len(), told.newest), (TOLD_MAX, told.entries[TOLD_MAX - 1].id));
    // Another one makes room first.
    list.revoke(Target::ClientId("x".into()), RevokeReason::Administrative, Duration::ZERO);
    assert!(list.since(1).has_missed);
}

#[test]
fn what_has_ended_makes_room_for_what_lasts() {
    let list = Revocations::default();
    let ban = Target::User("mallory".into());
    list.revoke(ban.clone(), RevokeReason::Administrative, Duration::from_secs(86_400));
    for n in 0..=ENTRIES_MAX {
        let target = Target::ClientId(n.to_string().into());
        list.revoke(target, RevokeReason::CredentialsChanged, Duration::ZERO);
    }
    assert_eq!(list.remembered(), (ENTRIES_MAX, ENTRIES_MAX));
    let now = Instant::now() + Duration::from_millis(1);
    assert_eq!(list.verdict(&bearer("mallory", "m"), now), Some(RevokeReason::Administrative));
    let lasting: Vec<_> = list.lasting().into_iter().map(|entry| entry.target).collect();
    assert_eq!(lasting, [ban]);
}

// What lasts holds up nobody's leaving.
#[test]
fn what_was_said_again_is_there_once() {
    let list = Revocations::default();
    list.revoke(Target::User("a".into()), RevokeReason::Administrative, Duration::from_secs(60));
    for _ in 0..10 {
        list.revoke(Target::User("b".into()), RevokeReason::CredentialsChanged, Duration::ZERO);
    }
    assert_eq!(list.remembered(), (2, 2));
    let ids: Vec<_> = list.since(0).entries.iter().map(|entry| entry.id).collect();
    assert_eq!(ids, [1, 11]);
}
