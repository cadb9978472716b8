//! The queues of a priority level: which request is served next. Pure: it knows no clock and no
//! task, its caller says what time it is and wakes those that it names.
//!
//! A level has a number of seats. A request takes one or more of them while it is served, and may
//! keep them for a while after. While all are taken requests wait in queues, and the queues are served
//! fairly: each gets the same share of seats, whatever its requests cost (KEP-1040, "Fair Queuing for
//! Server Requests").
//!
//! Time is measured in progress (the KEP's `R`): the seat-nanoseconds that each active queue has been
//! given. Each queue knows at which progress its next request begins to be served (`S`); the request
//! that would be finished first is dispatched first. What a request costs is not known before, so its
//! queue is charged [`ESTIMATED_DURATION`], and the difference when the request is done.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{dealer::Dealer, demand::Integrator};

/// How long a request is assumed to be served, until it is done.
pub(super) const ESTIMATED_DURATION: Duration = Duration::from_millis(3);

/// Seat-nanoseconds.
type Work = i128;

/// What a request is likely to cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cost {
    /// Seats while it is served.
    pub seats: u32,
    /// Seats that are kept for a while after.
    pub final_seats: u32,
    /// For how long.
    pub lingers: Duration,
}

impl Cost {
    /// A request that takes this many seats while it is served.
    pub(super) fn seats(seats: u32) -> Self {
        Self { seats, final_seats: 0, lingers: Duration::ZERO }
    }

    /// The seats that must be free.
    pub(super) fn max_seats(self) -> u32 {
        self.seats.max(self.final_seats)
    }

    fn estimated(self) -> Work {
        seats_for(self.seats, ESTIMATED_DURATION) + seats_for(self.final_seats, self.lingers)
    }
}

fn seats_for(seats: u32, duration: Duration) -> Work {
    Work::from(seats) * Work::try_from(duration.as_nanos()).unwrap_or(Work::from(u64::MAX))
}

/// What becomes of requests while all seats are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Discipline {
    /// They are served all the same.
    Exempt,
    /// They are refused.
    Reject,
    /// They wait.
    Queue {
        /// Which queues a flow may use.
        dealer: Dealer,
        /// How many requests may wait in a queue.
        length_limit: usize,
    },
}

/// A request's place, until it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(usize);

/// What becomes of a request that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It is served.
    Served(Ticket),
    /// It waits; its waker must be [attached](QueueSet::attach).
    Waits(Ticket),
    /// It is refused.
    Refused(Refusal),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    /// All seats are taken and there are no queues.
    ConcurrencyLimit,
    /// Its queue is full.
    QueueFull,
    /// It has waited too long.
    TimeOut,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Requests that are or were served.
    pub dispatched: u64,
    /// Requests that were refused.
    pub rejected: u64,
    /// Of these, those that had waited.
    pub cancelled: u64,
}

/// A request, with what its owner wants to remember of it.
#[derive(Debug)]
pub(super) struct Request<D, W> {
    /// What it is.
    pub about: D,
    /// What it costs.
    pub cost: Cost,
    /// When it came.
    pub arrived: Instant,
    /// Where it stands.
    pub stage: Stage,
    /// Its queue, if it came by way of one.
    pub queue: Option<usize>,
    waker: Option<W>,
    arrived_at: Work,
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It waits.
    Waiting,
    /// It is served, since then.
    Served(Instant),
    /// It is done and keeps its seats.
    Lingers,
}

/// A queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Requests that wait, the oldest first.
    pub waiting: VecDeque<Ticket>,
    /// Requests that are served.
    pub served: usize,
    /// The seats that these take, and those that linger.
    pub seats_in_use: u32,
    /// What those that wait would cost.
    pub work_waiting: Work,
    /// At which progress the next one begins to be served.
    pub next_dispatch: Work,
}

impl Queue {
    fn is_active(&self) -> bool {
        !self.waiting.is_empty() || self.served > 0
    }
}

/// See the module's documentation. `D` is what is remembered of a request, `W` wakes it.
#[derive(Debug)]
pub(super) struct QueueSet<D, W> {
    discipline: Discipline,
    seats: u32,
    queues: Vec<Queue>,
    requests: Vec<Option<Request<D, W>>>,
    free: Vec<usize>,
    progress: Work,
    at: Instant,
    robin: usize,
    enqueued: usize,
    active_queues: usize,
    waiting: usize,
    served: usize,
    seats_in_use: u32,
    seats_waiting: u32,
    demand: Integrator,
    totals: Totals,
}

impl<D, W> QueueSet<D, W> {
    /// An idle level with this many seats.
    pub(super) fn new(discipline: Discipline, seats: u32, now: Instant) -> Self {
        let mut set = Self {
            discipline: Discipline::Exempt,
            seats,
            queues: Vec::new(),
            requests: Vec::new(),
            free: Vec::new(),
            progress: 0,
            at: now,
            robin: 0,
            enqueued: 0,
            active_queues: 0,
            waiting: 0,
            served: 0,
            seats_in_use: 0,
            seats_waiting: 0,
            demand: Integrator::new(now),
            totals: Totals::default(),
        };
        set.configure(discipline, seats, now, &mut Vec::new());
        set
    }

    /// Changes how requests are treated. Those that wait keep waiting, in queues that may go
    /// when they are empty.
    pub(super) fn configure(
        &mut self,
        discipline: Discipline,
        seats: u32,
        now: Instant,
        woken: &mut Vec<W>,
    ) {
        self.sync(now);
        self.discipline = discipline;
        self.seats = seats;
        if let Discipline::Queue { dealer, .. } = discipline
            && self.queues.len() < dealer.deck()
        {
            self.queues.resize_with(dealer.deck(), Queue::default);
        }
        self.drop_queues();
        self.dispatch(now, woken);
    }

    /// Takes a request of the flow with this hash.
    pub(super) fn arrive(
        &mut self,
        about: D,
        cost: Cost,
        flow: u64,
        now: Instant,
        woken: &mut Vec<W>,
    ) -> Arrival {
        self.sync(now);
        let mut request = Request {
            about,
            cost,
            arrived: now,
            stage: Stage::Waiting,
            queue: None,
            waker: None,
            arrived_at: self.progress,
        };
        let Discipline::Queue { dealer, length_limit } = self.discipline else {
            if self.discipline == Discipline::Reject && !self.has_room(cost.max_seats()) {
                self.totals.rejected += 1;
                return Arrival::Refused(Refusal::ConcurrencyLimit);
            }
            let ticket = self.insert(request);
            self.serve(ticket, now);
            return Arrival::Served(ticket);
        };
        let index = self.choose(dealer, flow);
        let queue = &mut self.queues[index];
        if self.seats_in_use >= self.seats && queue.waiting.len() >= length_limit {
            self.totals.rejected += 1;
            return Arrival::Refused(Refusal::QueueFull);
        }
        request.queue = Some(index);
        let was_active = queue.is_active();
        if !was_active {
            // A queue that was idle has no claim to the time that went by.
            queue.next_dispatch = self.progress;
            self.active_queues += 1;
        }
        queue.work_waiting += cost.estimated();
        let ticket = self.insert(request);
        self.queues[index].waiting.push_back(ticket);
        self.waiting += 1;
        self.seats_waiting += cost.max_seats();
        self.bound(index);
        self.dispatch(now, woken);
        self.note_demand(now);
        match self.request(ticket).map(|request| request.stage) {
            Some(Stage::Waiting) => Arrival::Waits(ticket),
            _ => Arrival::Served(ticket),
        }
    }

    /// What wakes a request that waits.
    pub(super) fn attach(&mut self, ticket: Ticket, waker: W) {
        if let Some(request) = self.requests.get_mut(ticket.0).and_then(Option::as_mut) {
            request.waker = Some(waker);
        }
    }

    /// Ends a request, whether it was served or still waits. If it keeps its seats, says for how long:
    /// then [`Self::release`] must be called.
    pub(super) fn leave(
        &mut self,
        ticket: Ticket,
        now: Instant,
        woken: &mut Vec<W>,
    ) -> Option<Duration> {
        self.sync(now);
        let request = self.request(ticket)?;
        let (cost, queue) = (request.cost, request.queue);
        match request.stage {
            Stage::Waiting => {
                self.unqueue(ticket);
                self.remove(ticket);
                self.totals.rejected += 1;
                self.totals.cancelled += 1;
                self.dispatch(now, woken);
                self.note_demand(now);
                None
            }
            Stage::Served(since) => {
                self.served -= 1;
                if let Some(index) = queue {
                    let took = seats_for(cost.seats, now.saturating_duration_since(since));
                    let queue = &mut self.queues[index];
                    queue.next_dispatch += took - seats_for(cost.seats, ESTIMATED_DURATION);
                    queue.served -= 1;
                    if !queue.is_active() {
                        self.active_queues -= 1;
                    }
                    self.bound(index);
                }
                if !cost.lingers.is_zero() {
                    if let Some(request) = self.requests[ticket.0].as_mut() {
                        request.stage = Stage::Lingers;
                    }
                    return Some(cost.lingers);
                }
                self.give_back(ticket, now, woken);
                None
            }
            Stage::Lingers => None,
        }
    }

    /// Gives back the seats that a request kept.
    pub(super) fn release(&mut self, ticket: Ticket, now: Instant, woken: &mut Vec<W>) {
        self.sync(now);
        if self.request(ticket).is_some_and(|request| request.stage == Stage::Lingers) {
            self.give_back(ticket, now, woken);
        }
    }

    /// The demand since the last call.
    pub(super) fn end_period(&mut self, now: Instant, known: &mut super::demand::Demand) {
        self.demand.end_period(now, known);
    }

    fn give_back(&mut self, ticket: Ticket, now: Instant, woken: &mut Vec<W>) {
        if let Some(request) = self.remove(ticket) {
            let seats = request.cost.max_seats();
            self.seats_in_use -= seats;
            if let Some(index) = request.queue {
                self.queues[index].seats_in_use -= seats;
            }
        }
        self.drop_queues();
        self.dispatch(now, woken);
        self.note_demand(now);
    }

    /// Follows the clock.
    fn sync(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        if self.active_queues > 0 {
            let used = self.seats.min(self.seats_in_use + self.seats_waiting);
            self.progress += seats_for(used, elapsed) / self.active_queues as Work;
        }
    }

    /// The queue for a request: of its flow's hand the one that has least to do. Of equals another
    /// one each time.
    fn choose(&mut self, dealer: Dealer, flow: u64) -> usize {
        let hand = dealer.deal(flow);
        let offset = self.enqueued;
        self.enqueued = self.enqueued.wrapping_add(1);
        let nth = |n: usize| hand[(offset % hand.len() + n) % hand.len()];
        let least = (0..hand.len()).map(nth).min_by_key(|index| self.queues[*index].work_waiting);
        least.unwrap_or(0)
    }

    /// Serves as many of those that wait as there are seats for.
    fn dispatch(&mut self, now: Instant, woken: &mut Vec<W>) {
        while self.waiting > 0 && self.seats_in_use < self.seats {
            let Some(index) = self.next_queue() else { return };
            let Some(ticket) = self.queues[index].waiting.front().copied() else { return };
            let Some(cost) = self.request(ticket).map(|request| request.cost) else { return };
            if !self.has_room(cost.max_seats()) {
                return;
            }
            self.robin = index;
            self.unqueue(ticket);
            let cost = self.fit(ticket, cost);
            // It has left the queue and is about to be served there: the queue stays active.
            let queue = &mut self.queues[index];
            if !queue.is_active() {
                self.active_queues += 1;
            }
            queue.served += 1;
            queue.seats_in_use += cost.max_seats();
            queue.next_dispatch += cost.estimated();
            self.bound(index);
            self.serve(ticket, now);
            let waker = self.requests[ticket.0].as_mut().and_then(|request| request.waker.take());
            woken.extend(waker);
        }
    }

    /// No more seats after it is done than there are; they are kept longer instead.
    fn fit(&mut self, ticket: Ticket, mut cost: Cost) -> Cost {
        if cost.final_seats > self.seats.max(1) {
            let work = seats_for(cost.final_seats, cost.lingers);
            cost.final_seats = self.seats.max(1);
            let lingers = work / Work::from(cost.final_seats);
            cost.lingers = Duration::from_nanos(u64::try_from(lingers).unwrap_or(u64::MAX));
        }
        if let Some(request) = self.requests[ticket.0].as_mut() {
            request.cost = cost;
        }
        cost
    }

    /// The queue whose oldest request would be done first. Of equals the next in turn.
    fn next_queue(&self) -> Option<usize> {
        let count = self.queues.len();
        let in_turn = (1..=count).map(|step| (self.robin + step) % count);
        let finish = |index: &usize| {
            let queue = &self.queues[*index];
            let oldest = self.request(*queue.waiting.front()?)?;
            Some((queue.next_dispatch + oldest.cost.estimated(), *index))
        };
        // The first of the smallest.
        let by_finish = in_turn.filter_map(|index| finish(&index));
        by_finish.min_by_key(|(finish, _)| *finish).map(|(_, index)| index)
    }

    /// Whether a request could be served. One that needs more seats than there are can when it is
    /// alone.
    fn has_room(&self, seats: u32) -> bool {
        if seats > self.seats {
            return self.served == 0 && self.seats_in_use == 0;
        }
        self.seats_in_use + seats <= self.seats
    }

    fn serve(&mut self, ticket: Ticket, now: Instant) {
        let Some(request) = self.requests[ticket.0].as_mut() else { return };
        request.stage = Stage::Served(now);
        self.served += 1;
        self.seats_in_use += request.cost.max_seats();
        self.totals.dispatched += 1;
        self.note_demand(now);
    }

    /// Takes a request out of its queue.
    fn unqueue(&mut self, ticket: Ticket) {
        let Some(request) = self.requests[ticket.0].as_ref() else { return };
        let (cost, Some(index)) = (request.cost, request.queue) else { return };
        let queue = &mut self.queues[index];
        let Some(position) = queue.waiting.iter().position(|found| *found == ticket) else {
            return;
        };
        queue.waiting.remove(position);
        queue.work_waiting -= cost.estimated();
        if !queue.is_active() {
            self.active_queues -= 1;
        }
        self.waiting -= 1;
        self.seats_waiting -= cost.max_seats();
        self.bound(index);
    }

    /// A queue cannot save up: its oldest request begins to be served after it came.
    fn bound(&mut self, index: usize) {
        let oldest = self.queues[index].waiting.front().and_then(|ticket| self.request(*ticket));
        if let Some(arrived_at) = oldest.map(|request| request.arrived_at) {
            let queue = &mut self.queues[index];
            queue.next_dispatch = queue.next_dispatch.max(arrived_at);
        }
    }

    /// Drops queues that there should not be any more, the last first, so that none changes its index.
    fn drop_queues(&mut self) {
        let wanted = match self.discipline {
            Discipline::Queue { dealer, .. } => dealer.deck(),
            _ => 0,
        };
        while self.queues.len() > wanted
            && self.queues.last().is_some_and(|last| !last.is_active() && last.seats_in_use == 0)
        {
            self.queues.pop();
        }
        if self.robin >= self.queues.len() {
            self.robin = 0;
        }
    }

    fn note_demand(&mut self, now: Instant) {
        self.demand.set(now, self.seats_in_use + self.seats_waiting);
    }

    fn insert(&mut self, request: Request<D, W>) -> Ticket {
        match self.free.pop() {
            Some(index) => {
                self.requests[index] = Some(request);
                Ticket(index)
            }
            None => {
                self.requests.push(Some(request));
                Ticket(self.requests.len() - 1)
            }
        }
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Request<D, W>> {
        let request = self.requests.get_mut(ticket.0)?.take();
        self.free.push(ticket.0);
        request
    }

    // === what can be seen ===

    /// A request.
    pub(super) fn request(&self, ticket: Ticket) -> Option<&Request<D, W>> {
        self.requests.get(ticket.0)?.as_ref()
    }

    /// All requests, in no order.
    pub(super) fn requests(&self) -> impl Iterator<Item = (Ticket, &Request<D, W>)> {
        let requests = self.requests.iter().enumerate();
        requests.filter_map(|(index, request)| Some((Ticket(index), request.as_ref()?)))
    }

    /// The queues.
    pub(super) fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// The number of requests that wait, of those that are served, and of the seats in use.
    pub(super) fn counts(&self) -> (usize, usize, u32) {
        (self.waiting, self.served, self.seats_in_use)
    }

    /// What has happened so far.
    pub(super) fn totals(&self) -> Totals {
        self.totals
    }
}

#[cfg(test)]
mod tests;
