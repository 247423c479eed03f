//! Topic Names, Topic Filters, and which match (section 4.7).

use mqtt::topic::{
    SharedFilter, TOPIC_BYTES_MAX, TopicError, TopicFilter, TopicName, has_wildcard, is_shared, levels,
    matches, validate_filter, validate_name,
};

#[test]
fn filters_match_as_section_4_7_says() {
    for (filter, name, expected) in [
        // Section 4.7.1.2
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
        ("sport/#", "sport", true),
        ("#", "sport", true),
        ("#", "/", true),
        ("sport/#", "sports", false),
        // Section 4.7.1.3
        ("sport/tennis/+", "sport/tennis/player1", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        ("+", "finance", true),
        // Section 4.7.3
        ("ACCOUNTS", "Accounts", false),
        ("/finance", "finance", false),
        ("a//b", "a//b", true),
        ("a/+/b", "a//b", true),
        ("a/b", "a", false),
        ("a", "a/b", false),
        ("a/b/", "a/b", false),
        ("+/+/#", "a/b", true),
        ("+/+/#", "a", false),
        // v5 [MQTT-4.7.2-1]
        ("#", "$SYS/broker", false),
        ("+/monitor/Clients", "$SYS/monitor/Clients", false),
        ("+", "$SYS", false),
        ("$SYS/#", "$SYS/monitor/Clients", true),
        ("$SYS/#", "$SYS", true),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
        ("a/#", "a/$SYS", true),
        ("a/+", "a/$SYS", true),
        // v5 [MQTT-4.7.3-4]: the two forms of é are different characters.
        ("\u{E9}", "e\u{301}", false),
    ] {
        validate_filter(filter).unwrap();
        validate_name(name).unwrap();
        assert_eq!(matches(filter, name), expected, "{filter} {name}");
        let typed = TopicFilter::new(filter).unwrap().matches(TopicName::new(name).unwrap());
        assert_eq!(typed, expected, "{filter} {name}");
    }
}

#[test]
fn a_shared_filter_matches_by_its_inner_filter() {
    let filter = TopicFilter::new("$share/group/a/+").unwrap();
    assert_eq!(filter.shared(), Some(SharedFilter { share_name: "group", filter: "a/+" }));
    assert!(filter.matches(TopicName::new("a/b").unwrap()));
    assert!(!filter.matches(TopicName::new("$share/group/a/b").unwrap()));
    assert!(is_shared(filter.as_str()));
}

#[test]
fn an_inner_filter_may_begin_with_a_slash_or_a_wildcard() {
    let parts =
        |filter| SharedFilter::parse(filter).unwrap().map(|shared| (shared.share_name, shared.filter));
    assert_eq!(parts("$share/g//a"), Some(("g", "/a")));
    assert_eq!(parts("$share/g/#"), Some(("g", "#")));
    assert_eq!(parts("$share/g/$SYS/x"), Some(("g", "$SYS/x")));
    assert_eq!(parts("$SHARE/g/a"), None);
    assert_eq!(parts("share/g/a"), None);
}

#[test]
fn topics_are_bounded_by_65_535_bytes() {
    // v5 [MQTT-4.7.3-3]
    let longest = "é".repeat(TOPIC_BYTES_MAX / 2) + "x";
    assert_eq!(longest.len(), TOPIC_BYTES_MAX);
    assert_eq!((validate_name(&longest), validate_filter(&longest)), (Ok(()), Ok(())));
    let over = longest + "x";
    assert_eq!(validate_name(&over), Err(TopicError::TooLong));
    assert_eq!(validate_filter(&over), Err(TopicError::TooLong));
}

#[test]
fn names_that_are_none() {
    assert_eq!(validate_name(""), Err(TopicError::Empty));
    assert_eq!(validate_name("a\0"), Err(TopicError::HasNul));
    assert_eq!(validate_name("a/+"), Err(TopicError::WildcardInName));
    assert_eq!(validate_filter("a\0"), Err(TopicError::HasNul));
}

#[test]
fn levels_are_the_parts_between_slashes() {
    assert_eq!(levels("/a//b/").collect::<Vec<_>>(), ["", "a", "", "b", ""]);
    assert_eq!(TopicName::new("a").unwrap().levels().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn wildcards_are_seen() {
    assert!(has_wildcard("a/+/b") && has_wildcard("#"));
    assert!(!has_wildcard("a/b") && !has_wildcard("$share/g/a"));
}

#[test]
fn a_topic_of_a_million_levels_ends_in_time() {
    // One string holds 65,536 levels; sixteen of them make a million.
    let deep = "/".repeat(TOPIC_BYTES_MAX);
    let wild = "+/".repeat(TOPIC_BYTES_MAX / 2) + "#";
    for _ in 0..16 {
        assert_eq!((validate_filter(&deep), validate_filter(&wild)), (Ok(()), Ok(())));
        assert!(matches(&wild, &deep));
    }
}
