//! What must hold between calls, checked by tests and simulations.

#[cfg(all(feature = "testing", debug_assertions))]
impl super::Tables {
    /// Stops if the tables contradict themselves.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub(crate) fn check_invariants(&self) {
        let mut totals = super::Totals::default();
        let mut resident_bytes = 0;
        let mut references = std::collections::BTreeMap::new();
        for (key, session) in &self.sessions {
            assert_eq!(*key, session.key());
            assert_eq!(self.by_client.get(&session.identity.client_id), Some(key), "one session per client");
            let (live, bytes, resident) = session.queue.recount();
            assert_eq!(
                (live, bytes, resident),
                (session.queue.live(), session.queue.bytes(), session.queue.resident_bytes())
            );
            totals.queued_messages += live;
            totals.queued_bytes += bytes;
            totals.subscriptions += session.subscriptions.len() as u64;
            resident_bytes += resident;
            for body in session.queue.shared_bodies() {
                *references.entry(body).or_insert(0) += 1;
            }
            assert!(session.subscriptions.is_sorted_by(|a, b| a.filter < b.filter));
            assert!(session.received.is_sorted_by(|a, b| a < b));
        }
        assert_eq!(totals, self.totals);
        assert_eq!(resident_bytes, self.resident_bytes);
        assert_eq!(references, self.bodies.references(), "every shared body is referred to");
        assert_eq!(self.by_client.len(), self.sessions.len());
        assert_eq!(self.order.len(), self.sessions.len());
        self.check_timers();
    }

    fn check_timers(&self) {
        use super::session::Phase;
        use super::timer::TimerKind;

        for (at, key, kind) in self.timers.iter() {
            let armed_at = match kind {
                TimerKind::Orphan(own) => self.orphans.get(&(*key, *own)).map(|orphan| orphan.due_at),
                TimerKind::Left(number) => self.left.get(&(*key, *number)).map(|(_, at)| *at),
                TimerKind::Will => self.sessions.get(key).and_then(|s| s.will.as_ref()?.timer_at()),
                TimerKind::Expiry => self.sessions.get(key).and_then(|session| match session.phase {
                    Phase::Connected => None,
                    Phase::Away { expires_at } => expires_at,
                }),
            };
            assert_eq!(armed_at, Some(*at), "a timer without a cause: {kind:?}");
        }
        let wills =
            self.sessions.values().filter(|s| s.will.as_ref().is_some_and(|w| w.timer_at().is_some()));
        let expiries = self
            .sessions
            .values()
            .filter(|session| matches!(session.phase, Phase::Away { expires_at: Some(_) }));
        let kept = self.orphans.len() + self.left.len();
        let armed = self.timers.iter().count() + self.timers.waiting();
        assert_eq!(armed, wills.count() + expiries.count() + kept);
        let left_bytes: u64 = self.left.values().map(|(left, _)| left.message.size() as u64).sum();
        assert!(self.left_bytes >= left_bytes, "bequests count, too");
    }
}
