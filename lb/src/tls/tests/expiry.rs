//! What ends: told in time, and never put in force over what is good.

use std::time::{Duration, UNIX_EPOCH};

use rcgen::date_time_ymd;

use super::super::expiry::What;
use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The first second of a day, and so many days before it.
fn before(year: i32, days: u32) -> SystemTime {
    let start = date_time_ymd(year, 1, 1).unix_timestamp();
    UNIX_EPOCH + Duration::from_secs(u64::try_from(start).unwrap()) - days * DAY
}

/// A certificate that is good from the first day of one year to the first one of another.
fn lasting(fixture: &Fixture, from: i32, until: i32) -> Issued {
    fixture.authority.issue_with("lasting", &["localhost"], |params| {
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
    })
}

struct Watch {
    reload: Reload,
    server: Arc<TlsServer>,
    now: Instant,
}

impl Watch {
    fn start(fixture: &Fixture) -> Self {
        let found = Snapshot::take(fixture.config.files());
        let server = TlsServer::load_from(fixture.config.clone(), Application::Mqtt, &found).unwrap();
        let server = Arc::new(server);
        let both = ["mqtts", "wss"].map(|name| Served {
            listener: name.into(),
            key: "tls".to_owned(),
            server: Arc::clone(&server),
        });
        Self { reload: Reload::new(both.into(), &found), server, now: Instant::now() }
    }

    /// What four looks say at this time.
    fn look(&mut self, wall: SystemTime) -> Option<Result<(), String>> {
        let said = (0..4).find_map(|_| {
            self.now += files::LOOK_INTERVAL;
            self.reload.look(self.now, wall)
        });
        said.map(|said| said.map(drop).map_err(|refused| refused.to_string()))
    }

    /// What is told at this time: what it is, whether it has ended, and days.
    fn told(&mut self, wall: SystemTime) -> Vec<(What, bool, i64)> {
        self.now += files::LOOK_INTERVAL;
        let told = self.reload.endings(self.now, wall);
        assert!(told.iter().all(|ending| ending.listeners == "mqtts, wss"), "{told:?}");
        told.into_iter().map(|ending| (ending.what, ending.has_ended, ending.days_left)).collect()
    }

    fn shows(&self, issued: &Issued) -> bool {
        self.server
            .endings(i64::MAX)
            .iter()
            .any(|(term, _)| Some(term.validity) == files::validity::Validity::of_certificate(&issued.der))
    }
}

#[test]
fn what_ends_soon_is_told_of_once_a_day_and_when_it_has_ended() {
    let mut fixture = Fixture::new();
    fixture.config.client_certificates =
        fixture.authority.client_certificates(ClientCertificateMode::Optional);
    fixture.config.client_certificates.crl_files = vec![fixture.authority.revoke_until(&[], 2031)];
    fixture.authority.store("server", &lasting(&fixture, 2020, 2031));
    let mut watch = Watch::start(&fixture);
    assert_eq!(watch.told(before(2031, 15)), []);
    assert_eq!(watch.told(before(2031, 13)), [(What::ServerCertificate, false, 13)]);
    assert_eq!(watch.told(before(2031, 12)), [], "not again within a day");
    watch.now += DAY;
    assert_eq!(watch.told(before(2031, 12)), [(What::ServerCertificate, false, 12)]);
    // A list is new each day or week, and told of later.
    let hour = DAY / 24;
    assert_eq!(watch.told(before(2031, 1) + hour), [(What::RevocationList, false, 0)]);
    let ended = [(What::ServerCertificate, true, -1), (What::RevocationList, true, -1)];
    assert_eq!(watch.told(before(2031, 0) + hour), ended);
    assert_eq!(watch.told(before(2031, 0) + 2 * hour), []);
    // What takes its place has not been told of.
    fixture.authority.store("server", &lasting(&fixture, 2020, 2032));
    watch.look(before(2031, 0) + hour).unwrap().unwrap();
    assert_eq!(watch.told(before(2032, 1)).len(), 1);
}

#[test]
fn when_to_tell_is_a_setting() {
    let mut fixture = Fixture::new();
    fixture.authority.store("server", &lasting(&fixture, 2020, 2031));
    fixture.config.certificate_warning_days = 100;
    assert_eq!(Watch::start(&fixture).told(before(2031, 99)).len(), 1);
    fixture.config.certificate_warning_days = 0;
    assert_eq!(Watch::start(&fixture).told(before(2031, 0) - DAY / 24), []);
    assert_eq!(Watch::start(&fixture).told(before(2031, 0) + DAY), [(What::ServerCertificate, true, -1)]);
}

#[test]
fn a_certificate_that_has_ended_takes_no_good_ones_place() {
    let fixture = Fixture::new();
    let good = lasting(&fixture, 2020, 2031);
    fixture.authority.store("server", &good);
    let mut watch = Watch::start(&fixture);
    fixture.authority.store("server", &lasting(&fixture, 2020, 2021));
    let line = watch.look(before(2030, 0)).unwrap().unwrap_err();
    assert!(
        line.starts_with("tls.certificates.certificate_file: ") && line.contains("has ended on"),
        "{line}"
    );
    assert!(watch.shows(&good) && watch.look(before(2030, 0)).is_none());
    // Where that has ended, too, nothing is lost.
    watch.reload.ask();
    watch.look(before(2032, 0)).unwrap().unwrap();
    assert!(!watch.shows(&good));
}

#[test]
fn a_certificate_that_is_not_good_yet_is_taken_when_it_is() {
    let fixture = Fixture::new();
    let good = lasting(&fixture, 2020, 2031);
    fixture.authority.store("server", &good);
    let mut watch = Watch::start(&fixture);
    let next = lasting(&fixture, 2030, 2040);
    fixture.authority.store("server", &next);
    let line = watch.look(before(2030, 1)).unwrap().unwrap_err();
    assert!(line.contains("is good from"), "{line}");
    assert!(watch.look(before(2030, 1)).is_none() && watch.shows(&good));
    watch.look(before(2030, 0)).unwrap().unwrap();
    assert!(watch.shows(&next));
}

#[test]
fn lists_and_authorities_that_have_ended_take_no_good_ones_place() {
    let mut fixture = Fixture::new();
    fixture.config.client_certificates =
        fixture.authority.client_certificates(ClientCertificateMode::Optional);
    fixture.config.client_certificates.crl_files = vec![fixture.authority.revoke_until(&[], 2031)];
    let mut watch = Watch::start(&fixture);
    fixture.authority.revoke_until(&[], 2027);
    let line = watch.look(before(2030, 0)).unwrap().unwrap_err();
    assert!(line.contains("crl_files: ") && line.contains("CN=Tidegate test CA has ended on"), "{line}");
    fixture.authority.revoke_until(&[1], 2031);
    watch.look(before(2030, 0)).unwrap().unwrap();

    let ended = Authority::lasting("ended", 2020, 2027);
    let bundle = |authorities: &[&Authority]| {
        let text: String = authorities.iter().map(|authority| authority.pem()).collect();
        fixture.authority.write("ca.pem", text);
    };
    bundle(&[&ended]);
    let line = watch.look(before(2030, 0)).unwrap().unwrap_err();
    assert!(line.contains("ca_file: ") && line.contains("CN=ended has ended"), "{line}");
    bundle(&[&ended, &fixture.authority]);
    watch.look(before(2030, 0)).unwrap().unwrap();
}
