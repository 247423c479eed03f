//! A directory with users and groups of a test.

use testkit::directory::{Contents, Directory};

/// Where everything in it is.
pub(crate) const SUFFIX: &str = "dc=example";

const RULES: &str = "access to attrs=userPassword by anonymous auth\naccess to * by * read\n";

/// One with these users (`uid=NAME,dc=example`), who all have this password, and groups of one member each.
pub(crate) fn directory(password: &str, users: &[&str], groups: &[(&str, &str)]) -> Directory {
    let mut entries = format!(
        "dn: {SUFFIX}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: Example\n\n"
    );
    for user in users {
        entries += &format!(
            "dn: uid={user},{SUFFIX}\nobjectClass: inetOrgPerson\nuid: {user}\ncn: {user}\nsn: {user}\n\
             userPassword: {password}\n\n"
        );
    }
    for (group, member) in groups {
        entries += &format!(
            "dn: cn={group},{SUFFIX}\nobjectClass: groupOfNames\ncn: {group}\nmember: uid={member},{SUFFIX}\n\n"
        );
    }
    Directory::start(Contents { suffix: SUFFIX, entries: &entries, modules: "", rules: RULES })
}
