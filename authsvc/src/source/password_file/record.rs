//! The kinds of password records: Argon2id as `tidegate passwd` makes them, and those that people bring along from
//! `mosquitto_passwd` (`$6$`, `$7$`) and from bcrypt (`$2a$`, `$2b$`, `$2y$`). What one costs to verify is bounded.

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordVerifier, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha512};
use subtle::ConstantTimeEq as _;

/// Memory that one record may make a verification use, KiB.
const ARGON2_MEMORY_MAX_KIB: u32 = 256 * 1024;

/// Passes over that memory that a record may ask for.
const ARGON2_PASSES_MAX: u32 = 64;

/// Iterations that a `$7$` record may ask for: about a second.
const PBKDF2_ITERATIONS_MAX: u32 = 1_000_000;

/// The cost, a power of two, that a bcrypt record may ask for: about two seconds.
const BCRYPT_COST_MAX: u32 = 15;

/// Bytes of salt in records of Mosquitto's.
const SALT_BYTES_MAX: usize = 64;

/// Bytes that SHA-512 makes.
const SHA512_BYTES: usize = 64;

/// What verifying a password costs: two records of the same cost take the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cost {
    Argon2 {
        memory_kib: u32,
        passes: u32,
        lanes: u32,
    },
    /// `$7$`: PBKDF2 with SHA-512.
    Pbkdf2 {
        iterations: u32,
    },
    /// `$6$`: SHA-512 over password and salt, once.
    Sha512,
    Bcrypt {
        cost: u32,
    },
}

/// A record of `mosquitto_passwd`.
struct Mosquitto {
    /// `None`: `$6$`.
    iterations: Option<u32>,
    salt: Vec<u8>,
    hash: [u8; SHA512_BYTES],
}

impl Mosquitto {
    fn parse(record: &str) -> Option<Self> {
        let (iterations, rest) = if let Some(rest) = record.strip_prefix("$6$") {
            (None, rest)
        } else {
            let (iterations, rest) = record.strip_prefix("$7$")?.split_once('$')?;
            (Some(iterations.parse().ok()?), rest)
        };
        let (salt, hash) = rest.split_once('$')?;
        let salt = BASE64.decode(salt).ok().filter(|salt| (1..=SALT_BYTES_MAX).contains(&salt.len()))?;
        Some(Self { iterations, salt, hash: BASE64.decode(hash).ok()?.try_into().ok()? })
    }

    fn verify(&self, password: &[u8]) -> bool {
        let mut hash = [0; SHA512_BYTES];
        match self.iterations {
            Some(iterations) => pbkdf2::pbkdf2_hmac::<Sha512>(password, &self.salt, iterations, &mut hash),
            None => hash = Sha512::new().chain_update(password).chain_update(&self.salt).finalize().into(),
        }
        hash.ct_eq(&self.hash).into()
    }
}

fn is_bcrypt(record: &str) -> bool {
    ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| record.starts_with(prefix))
}

/// Checks a password record and answers what verifying it costs.
pub(super) fn check(record: &str) -> Result<Cost, &'static str> {
    if record.starts_with("$argon2id$") {
        check_argon2(record)
    } else if record.starts_with("$6$") || record.starts_with("$7$") {
        check_mosquitto(record)
    } else if is_bcrypt(record) {
        check_bcrypt(record)
    } else {
        Err(
            "the record is none of $argon2id$, $scram-sha-256$, $6$ and $7$ (mosquitto_passwd), $2b$ (bcrypt)",
        )
    }
}

fn check_argon2(record: &str) -> Result<Cost, &'static str> {
    const INVALID: &str = "not a valid $argon2id$ record";
    let hash = PasswordHash::new(record).map_err(|_| INVALID)?;
    if hash.hash.is_none() || hash.salt.is_none() {
        return Err(INVALID);
    }
    let parameters = Params::try_from(&hash).map_err(|_| INVALID)?;
    if parameters.m_cost() > ARGON2_MEMORY_MAX_KIB || parameters.t_cost() > ARGON2_PASSES_MAX {
        return Err("the $argon2id$ record asks for more than 256 MiB or 64 passes");
    }
    let (memory_kib, passes, lanes) = (parameters.m_cost(), parameters.t_cost(), parameters.p_cost());
    Ok(Cost::Argon2 { memory_kib, passes, lanes })
}

fn check_mosquitto(record: &str) -> Result<Cost, &'static str> {
    let parsed =
        Mosquitto::parse(record).ok_or("not a record of mosquitto_passwd ($6$SALT$HASH, $7$N$SALT$HASH)")?;
    match parsed.iterations {
        None => Ok(Cost::Sha512),
        Some(iterations) if (1..=PBKDF2_ITERATIONS_MAX).contains(&iterations) => {
            Ok(Cost::Pbkdf2 { iterations })
        }
        Some(_) => Err("the $7$ record asks for no iteration, or for more than 1000000"),
    }
}

fn check_bcrypt(record: &str) -> Result<Cost, &'static str> {
    const INVALID: &str = "not a valid bcrypt record";
    let parts: bcrypt::HashParts = record.parse().map_err(|_| INVALID)?;
    let is_whole = record.len() == 60 && parts.get_cost() >= 4;
    match parts.get_cost() {
        _ if !is_whole => Err(INVALID),
        cost if cost > BCRYPT_COST_MAX => Err("the bcrypt record has a cost of more than 15"),
        cost => Ok(Cost::Bcrypt { cost }),
    }
}

/// Argon2id as new records are made: 19 MiB, two passes, one lane (OWASP's recommendation).
pub(super) fn argon2() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::default())
}

/// Whether `password` is the one that `record` was made from. Takes up to seconds of CPU.
pub(super) fn verify(record: &str, password: &[u8]) -> bool {
    if is_bcrypt(record) {
        return bcrypt::verify(password, record).unwrap_or(false);
    }
    match Mosquitto::parse(record) {
        Some(parsed) => parsed.verify(password),
        None => PasswordHash::new(record).is_ok_and(|hash| argon2().verify_password(password, &hash).is_ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `mosquitto_passwd` of Mosquitto 2.0.11, and crypt(3) of libxcrypt: the password is "secret".
    const BROUGHT: [(&str, Cost); 6] = [
        (
            "$7$101$9qWGGPmSlsz8vi8Z$8FfRZK4g9ZknmH/R3sJsGdMZYP+K6ZURxuS4Q5LQgstomd0T0qxRdQtAhFlU7L85c3BDY7lyIICFRYgS3Hz5kQ==",
            Cost::Pbkdf2 { iterations: 101 },
        ),
        (
            "$7$1000$9XErbkZJ7iF7awYA$zyXz4sQl4KqScNIqG2q6dgCyLmLER2qRAOCaJ2AGaYIVmkuZe6xsxRZm4mWY7I8wYzGo1+n5D6QNwXXGke50Wg==",
            Cost::Pbkdf2 { iterations: 1000 },
        ),
        (
            "$6$EtC+KDBubUT1x8Ul$y3j+Y6RTR52n+1tf5Pqv3FTSrnLOUU0fBpZLnLPlHFdwK6P/8e6lGtMGTpFSZa0kCdsK+UP/RqyInysNu58Xqg==",
            Cost::Sha512,
        ),
        ("$2a$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", Cost::Bcrypt { cost: 5 }),
        ("$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", Cost::Bcrypt { cost: 5 }),
        ("$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", Cost::Bcrypt { cost: 5 }),
    ];

    #[test]
    fn what_other_tools_have_made_is_verified() {
        for (record, cost) in BROUGHT {
            assert_eq!(check(record), Ok(cost), "{record}");
            assert!(verify(record, b"secret"), "{record}");
            for wrong in ["", "Secret", "secret ", "secre"] {
                assert!(!verify(record, wrong.as_bytes()), "{record}: {wrong:?}");
            }
        }
        // bcrypt looks at 72 bytes, as everywhere.
        let long = "$2b$05$abcdefghijklmnopqrstuujf8SX2ahXLwp9w/B.Y5XdysS6yR576q";
        assert!(verify(long, "x".repeat(80).as_bytes()));
        assert!(!verify(long, "x".repeat(71).as_bytes()));
    }

    #[test]
    fn a_record_that_cannot_be_used_is_refused() {
        const NOT_MOSQUITTO: &str = "not a record of mosquitto_passwd ($6$SALT$HASH, $7$N$SALT$HASH)";
        const NOT_BCRYPT: &str = "not a valid bcrypt record";
        const NONE: &str = "the record is none of $argon2id$, $scram-sha-256$, $6$ and $7$ (mosquitto_passwd), $2b$ (bcrypt)";
        const ITERATIONS: &str = "the $7$ record asks for no iteration, or for more than 1000000";
        let with_iterations = |n: &str| BROUGHT[0].0.replace("$101$", &format!("${n}$"));
        let with_cost = |n: &str| BROUGHT[3].0.replace("$05$", &format!("${n}$"));
        let cases = [
            ("plain".to_owned(), NONE),
            ("$apr1$6sYM0b1o$sTJHqOhLYUs7.NxmmTuWJ.".to_owned(), NONE),
            ("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=".to_owned(), NONE),
            // crypt(3) has other records that begin so.
            (format!("$6$saltsalt${}", "x".repeat(86)), NOT_MOSQUITTO),
            ("$6$$".to_owned(), NOT_MOSQUITTO),
            (with_iterations(""), NOT_MOSQUITTO),
            (with_iterations("-1"), NOT_MOSQUITTO),
            (with_iterations("99999999999"), NOT_MOSQUITTO),
            (with_iterations("0"), ITERATIONS),
            (with_iterations("1000001"), ITERATIONS),
            (with_cost("16"), "the bcrypt record has a cost of more than 15"),
            (with_cost("31"), "the bcrypt record has a cost of more than 15"),
            (with_cost("03"), NOT_BCRYPT),
            (with_cost("xx"), NOT_BCRYPT),
            (BROUGHT[3].0[..59].to_owned(), NOT_BCRYPT),
            ("$2b$".to_owned(), NOT_BCRYPT),
        ];
        for (record, problem) in cases {
            assert_eq!(check(&record), Err(problem), "{record}");
        }
    }

    #[test]
    fn the_tool_of_mosquitto_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let made = ["sha512", "sha512-pbkdf2"].iter().enumerate().map(|(n, kind)| {
            let mut tool = std::process::Command::new("mosquitto_passwd");
            tool.args(["-H", kind]).args((n == 0).then_some("-c")).arg("-b").arg(&path);
            tool.args([&format!("user{n}"), "pass word: ü$"]).status()
        });
        if made.collect::<Result<Vec<_>, _>>().is_err() {
            eprintln!("skipped: mosquitto_passwd is not installed");
            return;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let records: Vec<_> = text.lines().map(|line| line.split_once(':').unwrap().1).collect();
        assert_eq!(records.len(), 2);
        for record in records {
            check(record).unwrap();
            assert!(verify(record, "pass word: ü$".as_bytes()), "{record}");
            assert!(!verify(record, b"pass word"), "{record}");
        }
    }
}
