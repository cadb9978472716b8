//! Invariants of queues under any order of events, and how fair they are.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Set = QueueSet<usize, Ticket>;

fn queue(deck: usize, hand: usize, length_limit: usize) -> Discipline {
    Discipline::Queue { dealer: Dealer::new(deck, hand), length_limit }
}

/// A set with a clock, and the requests that are in it.
struct World {
    set: Set,
    now: Instant,
    waiting: Vec<Ticket>,
    served: Vec<Ticket>,
    lingering: Vec<Ticket>,
}

impl World {
    fn new(discipline: Discipline, seats: u32) -> Self {
        let now = Instant::now();
        let set = Set::new(discipline, seats, now);
        Self { set, now, waiting: vec![], served: vec![], lingering: vec![] }
    }

    fn pass(&mut self, micros: u64) {
        self.now += Duration::from_micros(micros);
    }

    fn arrive(&mut self, flow: u64, cost: Cost) -> Arrival {
        let mut woken = Vec::new();
        let arrival = self.set.arrive(0, cost, flow, self.now, &mut woken);
        match arrival {
            Arrival::Served(ticket) => self.served.push(ticket),
            Arrival::Waits(ticket) => {
                self.set.attach(ticket, ticket);
                self.waiting.push(ticket);
            }
            Arrival::Refused(_) => {}
        }
        self.wake(woken);
        arrival
    }

    fn leave(&mut self, ticket: Ticket) {
        self.waiting.retain(|found| *found != ticket);
        self.served.retain(|found| *found != ticket);
        let mut woken = Vec::new();
        if self.set.leave(ticket, self.now, &mut woken).is_some() {
            self.lingering.push(ticket);
        }
        self.wake(woken);
    }

    fn release(&mut self, ticket: Ticket) {
        self.lingering.retain(|found| *found != ticket);
        let mut woken = Vec::new();
        self.set.release(ticket, self.now, &mut woken);
        self.wake(woken);
    }

    fn wake(&mut self, woken: Vec<Ticket>) {
        for ticket in woken {
            self.waiting.retain(|found| *found != ticket);
            self.served.push(ticket);
        }
    }

    fn check(&self) {
        let seats = |tickets: &[Ticket]| {
            let cost = |ticket: &Ticket| self.set.request(*ticket).unwrap().cost.max_seats();
            tickets.iter().map(cost).sum::<u32>()
        };
        let in_use = seats(&self.served) + seats(&self.lingering);
        assert_eq!(self.set.counts(), (self.waiting.len(), self.served.len(), in_use));
        assert_eq!(self.set.seats_waiting, seats(&self.waiting));
        let alone = self.served.len() + self.lingering.len() == 1;
        assert!(in_use <= self.set.seats || alone, "{in_use} seats of {}", self.set.seats);
        let active = self.set.queues.iter().filter(|queue| queue.is_active()).count();
        assert_eq!(self.set.active_queues, active);
        assert_eq!(
            self.set.requests().count(),
            self.waiting.len() + self.served.len() + self.lingering.len()
        );
    }
}

#[derive(Clone, Debug)]
enum Event {
    Arrive { flow: u64, seats: u32, final_seats: u32, lingers: bool },
    Finish(usize),
    Cancel(usize),
    Release(usize),
    Configure { deck: usize, seats: u32 },
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_u64..6, 1_u32..4, 0_u32..6, any::<bool>()).prop_map(|(flow, seats, final_seats, lingers)| {
            Event::Arrive { flow, seats, final_seats, lingers }
        }),
        3 => any::<usize>().prop_map(Event::Finish),
        1 => any::<usize>().prop_map(Event::Cancel),
        2 => any::<usize>().prop_map(Event::Release),
        1 => (1_usize..6, 1_u32..8).prop_map(|(deck, seats)| Event::Configure { deck, seats }),
        2 => (1_u64..5000).prop_map(Event::Pass),
    ]
}

proptest! {
    #[test]
    fn no_seat_is_lost_whatever_happens(events in proptest::collection::vec(event(), 0..120)) {
        let mut world = World::new(queue(4, 2, 3), 4);
        let nth = |tickets: &[Ticket], n: usize| {
            (!tickets.is_empty()).then(|| tickets[n % tickets.len()])
        };
        let mut seats_shrunk = false;
        for event in events {
            match event {
                Event::Arrive { flow, seats, final_seats, lingers } => {
                    let lingers = Duration::from_millis(if lingers { 5 } else { 0 });
                    world.arrive(flow, Cost { seats, final_seats, lingers });
                }
                Event::Finish(n) => if let Some(ticket) = nth(&world.served, n) { world.leave(ticket) },
                Event::Cancel(n) => if let Some(ticket) = nth(&world.waiting, n) { world.leave(ticket) },
                Event::Release(n) => if let Some(ticket) = nth(&world.lingering, n) { world.release(ticket) },
                Event::Configure { deck, seats } => {
                    seats_shrunk |= seats < world.set.seats;
                    let mut woken = Vec::new();
                    world.set.configure(queue(deck, 2, 3), seats, world.now, &mut woken);
                    world.wake(woken);
                }
                Event::Pass(micros) => world.pass(micros),
            }
            // Seats that were taken away are given back only as requests end.
            if !seats_shrunk {
                world.check();
            }
        }
        while !(world.served.is_empty() && world.lingering.is_empty()) {
            world.pass(100);
            for ticket in world.served.clone() { world.leave(ticket) }
            for ticket in world.lingering.clone() { world.release(ticket) }
        }
        prop_assert!(world.waiting.is_empty(), "who waits is served when others end");
        prop_assert_eq!(world.set.counts(), (0, 0, 0));
        prop_assert_eq!(world.set.active_queues, 0);
        prop_assert!(world.set.queues.iter().all(|queue| queue.work_waiting == 0 && queue.seats_in_use == 0));
    }

    // Requests are equally wide: while a wide one waits for its seats, some are empty, and nobody can
    // be given what nobody has.
    #[test]
    fn flows_that_always_wait_get_the_same_share(
        durations in proptest::collection::vec(1_u64..20, 3..4),
        width in 1_u32..4,
        abreast in 2_u32..6,
    ) {
        let seats = width * abreast;
        let mut backlog = Backlog::new(&durations, width, seats);
        let longest = durations.iter().copied().max().unwrap_or_default();
        // What is under way when somebody looks, and what was charged for it.
        let bound = 2 * seats_for(seats, Duration::from_millis(longest).max(ESTIMATED_DURATION));
        for _ in 0..400 {
            backlog.pass_a_millisecond();
            let given = &backlog.given;
            let most = given.iter().max().copied().unwrap_or_default();
            let least = given.iter().min().copied().unwrap_or_default();
            prop_assert!(most - least <= bound, "{given:?} differ by more than {bound}");
        }
        prop_assert!(backlog.given.iter().all(|given| *given > 0));
    }
}

/// Flows that always have requests waiting, each in a queue of its own.
struct Backlog<'a> {
    world: World,
    durations: &'a [u64],
    width: u32,
    elapsed_ms: u64,
    flow_of: BTreeMap<usize, usize>,
    /// Requests that are served, and when they are done.
    ends: BTreeMap<usize, u64>,
    /// What each flow has got.
    given: Vec<i128>,
}

impl<'a> Backlog<'a> {
    fn new(durations: &'a [u64], width: u32, seats: u32) -> Self {
        Self {
            world: World::new(queue(durations.len(), 1, 1000), seats),
            durations,
            width,
            elapsed_ms: 0,
            flow_of: BTreeMap::new(),
            ends: BTreeMap::new(),
            given: vec![0; durations.len()],
        }
    }

    fn pass_a_millisecond(&mut self) {
        for flow in 0..self.durations.len() {
            let of_flow = |world: &World, flow_of: &BTreeMap<usize, usize>| {
                world.waiting.iter().filter(|ticket| flow_of[&ticket.0] == flow).count()
            };
            while of_flow(&self.world, &self.flow_of) < 8 {
                match self.world.arrive(flow as u64, Cost::seats(self.width)) {
                    Arrival::Served(ticket) | Arrival::Waits(ticket) => {
                        self.flow_of.insert(ticket.0, flow);
                    }
                    Arrival::Refused(why) => panic!("{why:?}"),
                }
            }
        }
        for ticket in &self.world.served {
            let duration = self.durations[self.flow_of[&ticket.0]];
            self.ends.entry(ticket.0).or_insert(self.elapsed_ms + duration);
        }
        self.world.pass(1000);
        self.elapsed_ms += 1;
        for ticket in self.world.served.clone() {
            if self.ends.get(&ticket.0).is_some_and(|end| *end <= self.elapsed_ms) {
                self.ends.remove(&ticket.0);
                let flow = self.flow_of[&ticket.0];
                let took = Duration::from_millis(self.durations[flow]);
                self.given[flow] += seats_for(self.width, took);
                self.world.leave(ticket);
            }
        }
    }
}

#[test]
fn a_small_flow_passes_a_large_one() {
    let mut world = World::new(queue(2, 1, 100), 1);
    for _ in 0..10 {
        world.arrive(0, Cost::seats(1));
    }
    let Arrival::Waits(small) = world.arrive(1, Cost::seats(1)) else { panic!("there is no seat") };
    for _ in 0..2 {
        world.pass(3000);
        let first = world.served[0];
        world.leave(first);
        if world.served.contains(&small) {
            return;
        }
    }
    panic!("it waits behind the large flow");
}

#[test]
fn requests_are_refused_when_the_queue_is_full_or_there_is_none() {
    let mut world = World::new(queue(1, 1, 2), 1);
    for _ in 0..3 {
        world.arrive(0, Cost::seats(1));
    }
    assert_eq!(world.arrive(0, Cost::seats(1)), Arrival::Refused(Refusal::QueueFull));

    let mut world = World::new(Discipline::Reject, 1);
    assert!(matches!(world.arrive(0, Cost::seats(5)), Arrival::Served(_)), "alone it fits");
    assert_eq!(world.arrive(0, Cost::seats(1)), Arrival::Refused(Refusal::ConcurrencyLimit));

    let mut world = World::new(Discipline::Exempt, 0);
    for _ in 0..5 {
        assert!(matches!(world.arrive(0, Cost::seats(3)), Arrival::Served(_)));
    }
}

#[test]
fn seats_are_kept_as_long_as_a_request_lingers() {
    let mut world = World::new(queue(1, 1, 9), 2);
    world.arrive(0, Cost { seats: 1, final_seats: 2, lingers: Duration::from_millis(5) });
    world.arrive(0, Cost::seats(1));
    assert_eq!(world.waiting.len(), 1);
    let first = world.served[0];
    world.leave(first);
    assert_eq!((world.waiting.len(), world.lingering.len()), (1, 1));
    world.release(first);
    assert_eq!((world.waiting.len(), world.served.len()), (0, 1));
}
