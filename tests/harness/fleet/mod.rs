//! Many devices that share a few threads, and the account of every message among them.

mod account;
mod device;
pub(crate) mod talker;
mod wire;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub(crate) use account::{Account, Totals};
use device::Device;
pub(crate) use device::{Order, Phase, Plan};
use device::{Scene, place};
pub(crate) use wire::Trust;

use super::server::Server;

/// Between two looks at how far the devices are.
const LOOK: Duration = Duration::from_millis(50);

/// The devices of a test.
pub(crate) struct Fleet {
    runtime: Runtime,
    scene: Arc<Scene>,
    phase: watch::Sender<Phase>,
    members: Vec<Member>,
}

struct Member {
    plan: Arc<Plan>,
    account: Arc<Mutex<Account>>,
    orders: mpsc::UnboundedSender<Order>,
    ready: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
}

impl Member {
    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fleet {
    /// Devices for these edges.
    pub(crate) fn new(edges: &[&Server]) -> Fleet {
        Self::of_user(edges, None)
    }

    /// The same with a user name and a password, all of them.
    pub(crate) fn of_user(edges: &[&Server], user: Option<(String, String)>) -> Fleet {
        let scene = Scene {
            start: Instant::now(),
            edges: Mutex::new(edges.iter().map(|edge| Some(place(edge))).collect()),
            trust: Trust::read(edges[0].ca_file()),
            user,
        };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (phase, _) = watch::channel(Phase::Quiet);
        Fleet { runtime, scene: Arc::new(scene), phase, members: Vec::new() }
    }

    /// Adds a device, which begins to connect; answers its number.
    pub(crate) fn add(&mut self, plan: Plan) -> usize {
        let (orders, received) = mpsc::unbounded_channel();
        let (plan, account) = (Arc::new(plan), Arc::new(Mutex::new(Account::default())));
        let ready = Arc::new(AtomicBool::new(false));
        let device = Device::new(
            plan.clone(),
            self.scene.clone(),
            account.clone(),
            self.phase.subscribe(),
            received,
            ready.clone(),
        );
        let task = Some(self.runtime.spawn(device.run()));
        self.members.push(Member { plan, account, orders, ready, task });
        self.members.len() - 1
    }

    /// Waits until every device is connected and subscribed, those apart that were told to go.
    pub(crate) fn wait_until_ready(&mut self, within: Duration) {
        let deadline = Instant::now() + within;
        loop {
            self.expect_no_panic();
            let waiting = |member: &&Member| member.task.is_some() && !member.ready.load(Ordering::Relaxed);
            let missing = self.members.iter().filter(waiting).count();
            if missing == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "{missing} devices are not connected after {within:?}");
            std::thread::sleep(LOOK);
        }
    }

    /// What the devices do from here on.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Where an edge is now; `None` for one that is gone.
    pub(crate) fn edge_is(&self, number: usize, edge: Option<&Server>) {
        self.scene.edges.lock().unwrap()[number] = edge.map(place);
    }

    /// Tells one device to go, and waits until it has.
    pub(crate) fn order(&mut self, number: usize, order: Order) {
        let member = &mut self.members[number];
        member.orders.send(order).expect("a device that is there");
        if let Some(task) = member.task.take() {
            self.runtime.block_on(task).expect("the device saw nothing that it may not see");
        }
    }

    pub(crate) fn plan(&self, number: usize) -> &Plan {
        &self.members[number].plan
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Looks at one device's account.
    pub(crate) fn with_account<T>(&self, number: usize, look: impl FnOnce(&Account) -> T) -> T {
        look(&self.members[number].account())
    }

    /// How long the fleet exists.
    pub(crate) fn elapsed(&self) -> Duration {
        self.scene.start.elapsed()
    }

    /// Runs something of the test's own on the threads of the devices.
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn expect_no_panic(&mut self) {
        for member in &mut self.members {
            if member.task.as_ref().is_some_and(JoinHandle::is_finished)
                && let Some(task) = member.task.take()
            {
                let ended = self.runtime.block_on(task);
                assert!(ended.is_ok(), "{} stopped: {ended:?}", member.plan.client_id);
            }
        }
    }

    /// Publishes nothing new, waits until everything is acknowledged and has arrived, but not longer than this, and adds up.
    /// Does not wait for QoS 0, which faults may lose.
    pub(crate) fn settle(&mut self, within: Duration) -> Totals {
        self.settle_from(1, within)
    }

    /// `settle` where nothing may be lost: waits for QoS 0 too.
    pub(crate) fn settle_with_qos_0(&mut self, within: Duration) -> Totals {
        self.settle_from(0, within)
    }

    fn settle_from(&mut self, lowest_qos: usize, within: Duration) -> Totals {
        self.enter(Phase::Quiet);
        let deadline = Instant::now() + within;
        loop {
            self.expect_no_panic();
            let open: usize = self.members.iter().map(|member| member.account().open).sum();
            let totals = self.totals();
            let lost: u64 =
                totals.lost_stored[lowest_qos..].iter().chain(&totals.lost_clean[lowest_qos..]).sum();
            if (open == 0 && lost == 0) || Instant::now() > deadline {
                return totals;
            }
            std::thread::sleep(LOOK * 4);
        }
    }

    /// The sums so far.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for member in &self.members {
            totals.add_device(&member.plan.client_id, &member.account());
        }
        for publisher in &self.members {
            let Some(stem) = &publisher.plan.topic else { continue };
            let published = publisher.account().published.clone();
            let filter = format!("{stem}/+");
            for subscriber in self.members.iter().filter(|member| member.plan.filters.contains(&filter)) {
                let account = subscriber.account();
                let (name, stored) = (&subscriber.plan.client_id, subscriber.plan.stored);
                for (topic, numbers) in &published {
                    totals.add_route(topic, numbers, name, stored, account.received.get(topic));
                }
            }
        }
        totals
    }
}
