//! A version whose endpoints die, in pretend time: balance, ejection and slow start together.
//!
//! Every run is made from a seed, and prints it when it fails; `SEED=n cargo test --test ejection` replays one.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidegate_gateway::compile::{Material, compile};
use tidegate_gateway::endpoint::Endpoint;
use tidegate_gateway::health::{Fitness, Verdict, eject};
use tidegate_gateway::record::Metrics;
use tidegate_gateway::snapshot::Snapshot;
use tidegate_model::desired::*;
use tidegate_model::time::Timestamp;

const REQUESTS_PER_SECOND: u32 = 200;

/// A service of four endpoints, and what happened to requests so far.
struct World {
    snapshot: Snapshot,
    rules: Eject,
    now: Timestamp,
    dice: StdRng,
    /// By endpoint.
    served: [u32; 4],
    failed: u32,
    ejections: u32,
}

impl World {
    fn new(balance: Balance, rules: Eject, seed: u64) -> Self {
        let endpoint = |i: u16| EndpointSpec { address: Address::Tcp(([127, 0, 0, 1], 9_000 + i).into()), weight: 1 };
        let service = Service {
            name: "shop".into(),
            balance,
            probe: None,
            eject: Some(rules.clone()),
            retry: Retry::default(),
            timeouts: Timeouts::default(),
            protocol: UpstreamProtocol::Http1,
            tls: None,
            capacity: Default::default(),
            keep_idle: 1,
            versions: vec![Version { name: "v1".into(), endpoints: (0..4).map(endpoint).collect() }],
        };
        let desired = Arc::new(Desired { services: vec![service], ..Desired::default() });
        World {
            snapshot: compile(desired, None, &Material::default(), &Metrics::new()),
            rules,
            now: Timestamp::ZERO + Duration::from_secs(1),
            dice: StdRng::seed_from_u64(seed),
            served: [0; 4],
            failed: 0,
            ejections: 0,
        }
    }

    fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.snapshot.services[0].versions[0].endpoints
    }

    fn fitness(&self, i: usize) -> Fitness {
        self.endpoints()[i].health.fitness(self.now)
    }

    /// Lets requests come in for `time`, with some endpoints dead.
    fn live(&mut self, time: Duration, dead: &[usize]) {
        let until = self.now + time;
        while self.now < until {
            self.now = self.now + Duration::from_secs(1) / REQUESTS_PER_SECOND;
            let version = &self.snapshot.services[0].versions[0];
            let hash = self.dice.random();
            let chosen = Arc::clone(version.balance.choose(hash, self.now, &mut self.dice).expect("panic is on"));
            let i = version.endpoints.iter().position(|endpoint| Arc::ptr_eq(endpoint, &chosen)).unwrap();
            let verdict = if dead.contains(&i) { Verdict::Unreachable } else { Verdict::Good };
            match verdict {
                Verdict::Good => self.served[i] += 1,
                _ => self.failed += 1,
            }
            let ejected = eject::observe(Some(&self.rules), &version.endpoints, &chosen, verdict, self.now);
            self.ejections += u32::from(ejected.is_some());
        }
    }
}

fn rules() -> Eject {
    Eject { consecutive: 5, slow_start: Duration::from_secs(10), ..Eject::default() }
}

fn for_every_seed_and_balance(mut run: impl FnMut(Balance, u64)) {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..3).collect(),
    };
    for seed in seeds {
        for balance in [Balance::P2c, Balance::RoundRobin, Balance::LeastConn, Balance::Hash(Key::ClientIp)] {
            println!("replay with SEED={seed}, balance {balance:?}");
            run(balance, seed);
        }
    }
}

#[test]
fn a_dead_endpoint_costs_five_requests_for_each_time_it_is_tried_and_no_more() {
    for_every_seed_and_balance(|balance, seed| {
        let mut world = World::new(balance, rules(), seed);
        world.live(Duration::from_secs(10), &[]);
        assert_eq!((world.failed, world.ejections), (0, 0));

        world.live(Duration::from_secs(5), &[2]);
        assert_eq!((world.failed, world.ejections), (5, 1));
        world.live(Duration::from_secs(595), &[2]);

        // Rests of 30, 60, 90, 120, 150, 180 s end within ten minutes at 30, 90, 180, 300 and 450 s.
        assert_eq!((world.failed, world.ejections), (30, 6));
    });
}

#[test]
fn an_endpoint_that_recovered_returns_by_itself_and_grows_into_its_share() {
    for_every_seed_and_balance(|balance, seed| {
        let mut world = World::new(balance, rules(), seed);
        world.live(Duration::from_secs(5), &[2]);
        assert_eq!(world.fitness(2), Fitness::Resting);
        world.live(Duration::from_secs(25), &[]); // Its rest ends now, within the time that five failures took.

        let [first, growing, grown] = [2, 8, 60].map(|seconds| {
            let before = world.served;
            world.live(Duration::from_secs(seconds), &[]);
            let served = [0, 1, 2, 3].map(|i| f64::from(world.served[i] - before[i]));
            100.0 * served[2] / served.iter().sum::<f64>()
        });

        assert_eq!(world.failed, 5);
        assert!((2.0..12.0).contains(&first), "{first} percent at first");
        assert!(first < growing && growing < grown, "{first}, {growing}, {grown} percent");
        assert!((20.0..30.0).contains(&grown), "{grown} percent in the end, of four equal ones");
    });
}

#[test]
fn when_all_die_two_keep_their_place_and_all_serve_again_once_they_are_back() {
    for_every_seed_and_balance(|balance, seed| {
        let mut world = World::new(balance, rules(), seed);

        world.live(Duration::from_secs(20), &[0, 1, 2, 3]);
        let resting = (0..4).filter(|i| world.fitness(*i) == Fitness::Resting).count();
        let failed = world.failed;
        world.live(Duration::from_secs(60), &[]);

        assert_eq!(resting, 2, "half of them may rest");
        assert_eq!(world.failed, failed, "no request fails once they are back");
        assert!((0..4).all(|i| world.fitness(i) == Fitness::Fit(1_000)));
    });
}
