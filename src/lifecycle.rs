#![doc = include_str!("lifecycle.md")]
//!
//! Every transition lives in [`step`]; this file knows no sockets, no clock,
//! no processes, and uses nothing else of this crate. The tables above are
//! rendered from it by a test and frozen: a change of behaviour is a visible
//! change of the document.

use std::fmt;

/// What the process is doing, seen from outside.
///
/// The state machine behind it has more states than these four, and each of
/// them belongs to one of these; see the guide in the
/// [crate documentation](crate#what-happens-when).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Phase {
    /// The process accepts connections.
    Serving,
    /// A successor is starting; the process accepts connections.
    Forking,
    /// The successor has claimed the listeners and is getting ready; the
    /// process accepts connections.
    Handoff,
    /// The process no longer accepts connections and finishes what is in
    /// flight.
    Draining,
}

impl Phase {
    pub(crate) const ALL: [Phase; 4] = [
        Phase::Serving,
        Phase::Forking,
        Phase::Handoff,
        Phase::Draining,
    ];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Serving => "serving",
            Phase::Forking => "forking",
            Phase::Handoff => "handoff",
            Phase::Draining => "draining",
        })
    }
}

/// Where the process stands.
///
/// "Again" means that a reload came while it could not be begun, and is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// We accept, and nobody can take that back.
    Serving,
    /// We accept; our predecessor takes back if we die in our probation.
    Proving,
    ProvingAgain,
    /// We were told to stop after a while, in which whoever sends us clients
    /// can find out; we accept.
    Retiring,
    /// A successor is starting; we accept.
    Forking,
    ForkingAgain,
    /// A successor has claimed the listeners and is getting ready; we accept.
    Handoff,
    HandoffAgain,
    /// The successor accepts; we drain, and take back if it dies.
    Probation,
    ProbationAgain,
    /// The successor has passed its probation and is to publish its process
    /// ID; we drain, and take back if it dies.
    Publishing,
    PublishingAgain,
    /// The successor is proven and published; we drain, then exit.
    Draining,
    /// We were told to stop; we drain, then exit.
    Stopping,
    /// The service was told to stop; the successor drains and exits too.
    StoppingTogether,
    Exited,
}

/// What can happen to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// SIGHUP, or a reload that the predecessor forwards.
    Reload,
    /// SIGTERM or SIGINT, or a stop that the predecessor forwards.
    Stop,
    /// The same, where a stop is to be announced before it begins.
    Retire,
    /// The successor asks for the listeners.
    Claimed,
    /// The successor has everything it needs to serve.
    Ready,
    /// The successor cannot be started, has exited, hung up or spoken nonsense, or
    /// has not said in time that it stops.
    Lost,
    /// The deadline has passed for a successor to become ready or to publish
    /// itself, for the predecessor to say something, or for the drain.
    Overdue,
    /// Nothing is in flight any more.
    Drained,
    /// The time of a probation is over: the successor's in the predecessor,
    /// our own in the successor.
    Passed,
    /// The successor's process ID is the published one.
    Published,
    /// Nothing can be taken back any more: the successor knows that it is
    /// proven, or we know it of ourselves.
    Proven,
    /// The successor stops on purpose, and with it the service.
    Leaving,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Effect {
    /// Start a successor, and the clock for it to become ready.
    Spawn,
    /// Send the listeners to the successor.
    SendListeners,
    /// Stop accepting; keep the listeners open.
    StopAccepting,
    /// Tell the successor to accept.
    SendServe,
    /// Hand connections over to the successor.
    StartHandover,
    /// Tell every connection to come to an end here.
    StartDrain,
    /// Start the clock of the successor's probation.
    StartProbation,
    /// Accept again, tell every connection to go on, and serve again those
    /// that the lost successor has left clean.
    Resume,
    /// Tell the successor to publish its process ID, and start the clock for
    /// that.
    SendPublish,
    /// Tell the successor that it is proven; if it has published itself for
    /// that, `Proven` comes of it.
    SendProven,
    /// Give up what could be taken back.
    Relinquish,
    /// Tell the successor to reload.
    SendReload,
    /// Tell the successor to stop, and, if it is not proven, start the clock for it
    /// to say that it does.
    SendStop,
    /// Tell the predecessor that we stop on purpose.
    SendStopping,
    /// Make our process ID the published one.
    Publish,
    /// Make it that again, if the lost successor has changed it.
    Republish,
    /// Accept what the queues still hold of listeners that nobody took over;
    /// close all listeners.
    CloseListeners,
    /// Start the clock of the drain.
    StartDeadline,
    /// Be unready from now on, and start the clock of the stop.
    StartRetirement,
    /// Watch for the end of the drain.
    AwaitDrained,
    /// Kill the successor and reap it.
    Kill,
    /// Kill what is left of the lost successor and reap it.
    Bury,
    /// Kill the predecessor, which hangs and could yet take everything back.
    Fence,
    /// Leave the successor, which has taken over for good, to itself; reap it
    /// if it exits while we are there. One that was told to stop with us and has
    /// not said that it does is killed if it does not exit in time: nobody would
    /// be there to do so later.
    Release,
    /// Name everything that is still in flight.
    Report,
    /// Leave; what is in flight is cut. A successor that was told to stop with us
    /// and has not said that it does is killed if it does not exit in a moment.
    Exit,
}

impl State {
    /// The phase this state belongs to.
    pub(crate) fn phase(self) -> Phase {
        match self {
            State::Serving | State::Proving | State::ProvingAgain | State::Retiring => {
                Phase::Serving
            }
            State::Forking | State::ForkingAgain => Phase::Forking,
            State::Handoff | State::HandoffAgain => Phase::Handoff,
            State::Probation
            | State::ProbationAgain
            | State::Publishing
            | State::PublishingAgain
            | State::Draining
            | State::Stopping
            | State::StoppingTogether
            | State::Exited => Phase::Draining,
        }
    }

    /// Whether our predecessor can still take back what it handed over.
    pub(crate) fn is_unproven(self) -> bool {
        matches!(self, State::Proving | State::ProvingAgain)
    }

    /// Whether we can still take back what we handed over.
    pub(crate) fn is_probation(self) -> bool {
        matches!(
            self,
            State::Probation | State::ProbationAgain | State::Publishing | State::PublishingAgain
        )
    }
}

/// The lifecycle: where an event leads from a state, and what is to be done.
///
/// `None` means that the event cannot happen there; the caller reports it and
/// stays where it is.
pub(crate) fn step(state: State, event: Event) -> Option<(State, &'static [Effect])> {
    use Effect::*;
    use Event::*;
    use State::{
        Draining, Exited, Forking, ForkingAgain, Handoff, HandoffAgain, Probation, ProbationAgain,
        Proving, ProvingAgain, Publishing, PublishingAgain, Retiring, Serving, Stopping,
        StoppingTogether,
    };

    const STOP: &[Effect] = &[
        SendStopping,
        StopAccepting,
        CloseListeners,
        StartDrain,
        StartDeadline,
        AwaitDrained,
    ];
    const STOP_WITH_UNREADY: &[Effect] = &[
        Kill,
        SendStopping,
        StopAccepting,
        CloseListeners,
        StartDrain,
        StartDeadline,
        AwaitDrained,
    ];
    const STOP_TOGETHER: &[Effect] = &[
        SendStop,
        CloseListeners,
        StartDrain,
        StartDeadline,
        AwaitDrained,
    ];
    const COMMIT: &[Effect] = &[StopAccepting, SendServe, StartHandover, StartProbation];
    const PROVEN: &[Effect] = &[Relinquish, CloseListeners, StartDeadline, AwaitDrained];
    const LEAVING: &[Effect] = &[
        SendProven,
        Relinquish,
        CloseListeners,
        StartDeadline,
        AwaitDrained,
    ];

    match (state, event) {
        (Serving, Reload) => Some((Forking, &[Spawn])),
        (Serving, Stop) => Some((Stopping, STOP)),
        (Serving, Retire) => Some((Retiring, &[StartRetirement])),
        (
            Serving,
            Claimed | Ready | Lost | Overdue | Drained | Passed | Published | Proven | Leaving,
        ) => None,

        // A successor does not start one of its own before it is proven: there
        // is never more than one generation that can be taken back.
        (Proving | ProvingAgain, Reload) => Some((ProvingAgain, &[])),
        (Proving | ProvingAgain, Stop) => Some((Stopping, STOP)),
        (Proving | ProvingAgain, Retire) => Some((Retiring, &[SendStopping, StartRetirement])),
        (Proving, Passed) => Some((Proving, &[Publish])),
        (ProvingAgain, Passed) => Some((ProvingAgain, &[Publish])),
        (Proving, Proven) => Some((Serving, &[])),
        (ProvingAgain, Proven) => Some((Forking, &[Spawn])),
        // As long as it lives it could wake up, find its successor gone after a
        // restart of that one, and serve beside the third.
        (Proving, Overdue) => Some((Proving, &[Fence])),
        (ProvingAgain, Overdue) => Some((ProvingAgain, &[Fence])),
        (Proving | ProvingAgain, Claimed | Ready | Lost | Drained | Published | Leaving) => None,

        // A second one does not wait for the clock, which ends in a stop, too.
        (Retiring, Stop | Retire) => Some((Stopping, STOP)),
        (Retiring, Reload | Passed | Proven) => Some((Retiring, &[])),
        (Retiring, Claimed | Ready | Lost | Overdue | Drained | Published | Leaving) => None,

        // The running attempt may have read its configuration already, so a
        // reload during it is owed until another one has begun.
        (Forking | ForkingAgain, Reload) => Some((ForkingAgain, &[])),
        (Handoff | HandoffAgain, Reload) => Some((HandoffAgain, &[])),
        (Forking | ForkingAgain | Handoff | HandoffAgain, Stop) => {
            Some((Stopping, STOP_WITH_UNREADY))
        }
        (Forking | ForkingAgain | Handoff | HandoffAgain, Retire) => {
            Some((Retiring, &[Kill, StartRetirement]))
        }
        (Forking, Claimed) => Some((Handoff, &[SendListeners])),
        (ForkingAgain, Claimed) => Some((HandoffAgain, &[SendListeners])),
        (Handoff, Ready) => Some((Probation, COMMIT)),
        (HandoffAgain, Ready) => Some((
            ProbationAgain,
            &[
                StopAccepting,
                SendServe,
                SendReload,
                StartHandover,
                StartProbation,
            ],
        )),
        (Forking | Handoff, Lost) => Some((Serving, &[Bury])),
        (Forking | Handoff, Overdue) => Some((Serving, &[Kill])),
        (ForkingAgain | HandoffAgain, Lost) => Some((Forking, &[Bury, Spawn])),
        (ForkingAgain | HandoffAgain, Overdue) => Some((Forking, &[Kill, Spawn])),
        (Forking | ForkingAgain, Ready | Drained | Passed | Published | Proven | Leaving) => None,
        (Handoff | HandoffAgain, Claimed | Drained | Passed | Published | Proven | Leaving) => None,

        // A reload is passed on at once: a successor on probation that gets
        // the same signal itself then takes the two for one. We remember it
        // too, in case the successor is lost.
        (Probation, Reload) => Some((ProbationAgain, &[SendReload])),
        (ProbationAgain, Reload) => Some((ProbationAgain, &[])),
        (Publishing, Reload) => Some((PublishingAgain, &[SendReload])),
        (PublishingAgain, Reload) => Some((PublishingAgain, &[])),
        // Until the successor is published, our process ID is the one that
        // operators know: whoever stops us means the service.
        (Probation | ProbationAgain | Publishing | PublishingAgain, Stop | Retire) => {
            Some((StoppingTogether, STOP_TOGETHER))
        }
        // It may have published itself unasked, if it has taken us for dead.
        (Probation | Publishing, Lost) => Some((Serving, &[Bury, Resume, Republish])),
        (ProbationAgain | PublishingAgain, Lost) => {
            Some((Forking, &[Bury, Resume, Republish, Spawn]))
        }
        (Publishing, Overdue) => Some((Serving, &[Kill, Resume, Republish])),
        (PublishingAgain, Overdue) => Some((Forking, &[Kill, Resume, Republish, Spawn])),
        (Probation, Passed) => Some((Publishing, &[SendPublish])),
        (ProbationAgain, Passed) => Some((PublishingAgain, &[SendPublish])),
        (Publishing, Published) => Some((Publishing, &[SendProven])),
        (PublishingAgain, Published) => Some((PublishingAgain, &[SendProven])),
        (Publishing | PublishingAgain, Proven) => Some((Draining, PROVEN)),
        // The successor is told as well, for it is the one that ends last.
        (Probation | ProbationAgain | Publishing | PublishingAgain, Leaving) => {
            Some((Draining, LEAVING))
        }
        (Probation | ProbationAgain, Claimed | Ready | Overdue | Drained | Published | Proven) => {
            None
        }
        (Publishing | PublishingAgain, Claimed | Ready | Drained | Passed) => None,

        // From here on our process ID is not the published one, unless the
        // successor has left before it came to that. The first stop
        // changes nothing (systemd sends one to every process of a unit), the
        // second one is meant for us.
        (Draining, Reload) => Some((Draining, &[SendReload])),
        (Draining, Stop | Retire) => Some((Stopping, &[])),
        (Draining, Lost) => Some((Draining, &[Release])),
        (Draining, Claimed | Ready | Passed | Published | Proven | Leaving) => None,

        (Stopping, Reload | Passed | Proven) => Some((Stopping, &[])),
        (Stopping, Stop | Retire) => Some((Exited, &[Report, Exit])),
        (Stopping, Lost) => Some((Stopping, &[Release])),
        (Stopping, Claimed | Ready | Published | Leaving) => None,

        (StoppingTogether, Reload | Passed | Published) => Some((StoppingTogether, &[])),
        (StoppingTogether, Proven) => Some((StoppingTogether, &[Relinquish])),
        (StoppingTogether, Stop | Retire) => Some((Exited, &[SendStop, Report, Exit])),
        (StoppingTogether, Lost) => Some((Stopping, &[Release])),
        (StoppingTogether, Claimed | Ready | Leaving) => None,

        (Draining | Stopping | StoppingTogether, Overdue) => Some((Exited, &[Report, Exit])),
        (Draining | Stopping | StoppingTogether, Drained) => Some((Exited, &[Exit])),

        (
            Exited,
            Reload | Stop | Retire | Claimed | Ready | Lost | Overdue | Drained | Passed
            | Published | Proven | Leaving,
        ) => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::fmt::Write as _;

    const STATES: [State; 16] = [
        State::Serving,
        State::Proving,
        State::ProvingAgain,
        State::Retiring,
        State::Forking,
        State::ForkingAgain,
        State::Handoff,
        State::HandoffAgain,
        State::Probation,
        State::ProbationAgain,
        State::Publishing,
        State::PublishingAgain,
        State::Draining,
        State::Stopping,
        State::StoppingTogether,
        State::Exited,
    ];

    pub(crate) const EVENTS: [Event; 12] = [
        Event::Reload,
        Event::Stop,
        Event::Retire,
        Event::Claimed,
        Event::Ready,
        Event::Lost,
        Event::Overdue,
        Event::Drained,
        Event::Passed,
        Event::Published,
        Event::Proven,
        Event::Leaving,
    ];

    /// Where a process begins: as the first one, or as a successor.
    const BEGINNINGS: [State; 2] = [State::Serving, State::Proving];

    /// What the effects so far have led to. The properties are told in these
    /// terms, so they do not depend on the names of the states.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct World {
        state: State,
        we_accept: bool,
        successor: Successor,
        /// A reload was asked for, and no configuration was read since.
        reload_owed: bool,
        /// It was passed on to a successor that may yet be lost.
        reload_lent: bool,
        stop_asked: bool,
        /// Its clock is running.
        announced: bool,
        /// The successor has been told to stop too.
        stopping_together: bool,
        /// Somebody else's process ID may be the published one.
        asked_to_publish: bool,
        deadline_set: bool,
        drain_watched: bool,
        exited: bool,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    enum Successor {
        None,
        /// Spawned, not told to accept.
        Unready,
        /// Accepts, not proven.
        Accepting,
        Proven,
    }

    impl World {
        fn at(state: State) -> Self {
            World {
                state,
                we_accept: true,
                successor: Successor::None,
                reload_owed: false,
                reload_lent: false,
                stop_asked: false,
                announced: false,
                stopping_together: false,
                asked_to_publish: false,
                deadline_set: false,
                drain_watched: false,
                exited: false,
            }
        }

        /// Takes a step and checks everything that must hold in and after it.
        fn step(self, event: Event) -> Option<World> {
            let (state, effects) = step(self.state, event)?;
            let mut world = self;
            world.state = state;
            match event {
                // A successor that is not proven yet has not begun the restart
                // that it owes already, so that one is enough.
                Event::Reload => world.reload_owed |= !world.reload_lent,
                Event::Stop => world.stop_asked = true,
                // It does not begin where it is to be announced first.
                Event::Retire => {
                    world.stop_asked = state != State::Retiring;
                    world.announced |= !world.stop_asked;
                }
                Event::Claimed
                | Event::Ready
                | Event::Lost
                | Event::Overdue
                | Event::Drained
                | Event::Passed
                | Event::Published
                | Event::Proven
                | Event::Leaving => {}
            }
            for effect in effects {
                world.perform(*effect, event);
            }
            world.check(self, event);
            Some(world)
        }

        fn perform(&mut self, effect: Effect, event: Event) {
            match effect {
                Effect::Spawn => {
                    assert_eq!(self.successor, Successor::None, "two successors at once");
                    self.successor = Successor::Unready;
                    self.reload_owed = false;
                }
                Effect::SendListeners => assert_eq!(self.successor, Successor::Unready),
                Effect::StopAccepting => self.we_accept = false,
                Effect::SendServe => {
                    assert!(!self.we_accept, "two acceptors");
                    assert_eq!(self.successor, Successor::Unready);
                    self.successor = Successor::Accepting;
                }
                Effect::StartHandover => {
                    assert!(!self.we_accept);
                    assert_eq!(self.successor, Successor::Accepting);
                }
                Effect::StartDrain | Effect::StartProbation => assert!(!self.we_accept),
                Effect::Resume => {
                    assert_eq!(self.successor, Successor::None, "two acceptors");
                    self.we_accept = true;
                }
                Effect::SendPublish => {
                    assert_eq!(self.successor, Successor::Accepting);
                    self.asked_to_publish = true;
                }
                Effect::SendProven => {
                    assert_eq!(self.successor, Successor::Accepting);
                    let is_leaving = event == Event::Leaving;
                    assert!(self.asked_to_publish || is_leaving, "nobody could stop it");
                }
                Effect::Relinquish => {
                    assert!(matches!(
                        self.successor,
                        Successor::Accepting | Successor::Proven
                    ));
                    self.successor = Successor::Proven;
                    self.reload_lent = false;
                }
                // The successor owes it from now on.
                Effect::SendReload => {
                    self.reload_lent = self.successor == Successor::Accepting;
                    self.reload_owed = false;
                }
                Effect::SendStop => {
                    assert!(
                        self.successor == Successor::Accepting || self.stopping_together,
                        "a stop for a successor that is a service of its own"
                    );
                    self.stopping_together = true;
                }
                Effect::SendStopping | Effect::Publish => {}
                Effect::Republish => {
                    assert!(self.we_accept);
                    self.asked_to_publish = false;
                }
                // There is never more than one that could take back.
                Effect::Fence => assert_eq!(self.successor, Successor::None),
                Effect::CloseListeners => assert!(!self.we_accept),
                Effect::StartRetirement => assert!(self.we_accept),
                Effect::StartDeadline => self.deadline_set = true,
                Effect::AwaitDrained => self.drain_watched = true,
                Effect::Kill => {
                    assert_ne!(self.successor, Successor::None, "nobody to kill");
                    assert_ne!(event, Event::Lost, "the dead are buried, not killed");
                    assert_ne!(self.successor, Successor::Proven, "it is not ours to kill");
                    self.reload_owed |= std::mem::take(&mut self.reload_lent);
                    self.successor = Successor::None;
                }
                Effect::Bury => {
                    assert_eq!(event, Event::Lost);
                    assert_ne!(self.successor, Successor::Proven, "it is not ours to kill");
                    self.reload_owed |= std::mem::take(&mut self.reload_lent);
                    self.successor = Successor::None;
                }
                Effect::Release => {
                    assert_eq!(event, Event::Lost);
                    assert!(!self.we_accept);
                    self.successor = Successor::None;
                }
                Effect::Report => {}
                Effect::Exit => self.exited = true,
            }
        }

        fn accepted(&self) -> bool {
            self.we_accept || matches!(self.successor, Successor::Accepting | Successor::Proven)
        }

        fn check(&self, before: World, event: Event) {
            let phase = self.state.phase();
            // Never zero acceptors except inside Draining, and there only
            // after a stop, or because a proven successor was lost.
            assert_eq!(self.we_accept, phase != Phase::Draining, "{self:?}");
            assert!(
                self.accepted()
                    || self.stop_asked
                    || before.successor == Successor::Proven
                    || !before.accepted(),
                "nobody accepts: {before:?} {event:?} {self:?}"
            );
            // A failure before readiness ends in Serving, at once or, when a
            // reload is owed, with the next attempt under way.
            if before.successor == Successor::Unready
                && matches!(event, Event::Lost | Event::Overdue)
                && !self.stop_asked
            {
                let owed = before.reload_owed;
                let expected = if owed { State::Forking } else { State::Serving };
                assert_eq!(self.state, expected);
            }
            // A loss in probation is undone, whatever was published meanwhile.
            if before.successor == Successor::Accepting && event == Event::Lost {
                assert!(self.we_accept || self.stop_asked);
            }
            if self.we_accept {
                assert!(!self.asked_to_publish, "the published process is not there");
            }
            // No reload is forgotten: where nothing is under way, none is owed.
            if matches!(
                self.state,
                State::Serving | State::Publishing | State::Draining
            ) {
                assert!(!self.reload_owed, "{before:?} {event:?} {self:?}");
            }
            // Nothing comes back after a stop, and its end is watched for.
            if self.stop_asked {
                assert!(matches!(
                    self.state,
                    State::Stopping | State::StoppingTogether | State::Exited
                ));
                assert!(!self.we_accept && self.drain_watched);
            }
            // One that is announced is not forgotten, and nothing new begins.
            if self.announced {
                assert!(self.stop_asked || self.state == State::Retiring);
                assert_eq!(self.successor, Successor::None);
            }
            // Whatever is watched for has a deadline.
            assert!(self.deadline_set || !self.drain_watched);
            // We do not leave while our process ID is the published one, unless
            // the deadline says so or the service goes with us.
            if self.exited && event == Event::Drained && !self.stop_asked {
                assert!(matches!(
                    self.successor,
                    Successor::Proven | Successor::None
                ));
            }
            assert_eq!(self.exited, self.state == State::Exited);
            // No successor outlives us unready.
            if self.stop_asked || self.exited {
                assert_ne!(self.successor, Successor::Unready);
            }
        }
    }

    #[test]
    fn the_properties_hold_in_every_reachable_world() {
        let mut seen: HashSet<World> = BEGINNINGS.map(World::at).into();
        let mut fresh: Vec<World> = seen.iter().copied().collect();
        while let Some(world) = fresh.pop() {
            for next in EVENTS.iter().filter_map(|event| world.step(*event)) {
                if seen.insert(next) {
                    fresh.push(next);
                }
            }
        }
        let states: HashSet<State> = seen.iter().map(|world| world.state).collect();
        assert_eq!(states.len(), STATES.len(), "a state that cannot be reached");
        // From everywhere, a stop followed by the end of the drain, or by its
        // deadline, or by a second stop, leads out.
        for world in seen.iter().filter(|world| !world.exited) {
            let stopping = world.step(Event::Stop).expect("a stop is always heard");
            if stopping.exited {
                continue;
            }
            for end in [Event::Drained, Event::Overdue, Event::Stop] {
                assert!(stopping.step(end).expect("and comes to an end").exited);
            }
        }
        // From every restart under way, the successor's way leads to the end
        // of its probation, and a loss leads back.
        for world in seen.iter().filter(|world| !world.stop_asked) {
            if world.successor == Successor::Unready {
                let lost = world.step(Event::Lost).expect("a loss is always heard");
                assert!(lost.we_accept);
                let overdue = world
                    .step(Event::Overdue)
                    .expect("a deadline is always heard");
                assert!(overdue.we_accept);
            }
            if world.successor == Successor::Accepting {
                let left = world.step(Event::Leaving).expect("it may always leave");
                assert_eq!(left.successor, Successor::Proven);
                let mut proven = *world;
                if !world.asked_to_publish {
                    proven = proven.step(Event::Passed).expect("every probation ends");
                }
                proven = proven
                    .step(Event::Published)
                    .expect("with a new process ID");
                proven = proven.step(Event::Proven).expect("that is the service");
                assert_eq!(proven.successor, Successor::Proven);
            }
        }
    }

    #[test]
    fn the_properties_hold_along_every_sequence_of_eight_events() {
        fn walk(world: World, depth: usize) -> usize {
            if depth == 0 {
                return 1;
            }
            EVENTS
                .iter()
                .filter_map(|event| world.step(*event))
                .map(|next| walk(next, depth - 1))
                .sum()
        }
        let sequences: usize = BEGINNINGS
            .map(|state| walk(World::at(state), 8))
            .iter()
            .sum();
        assert!(sequences > 10_000, "only {sequences} sequences");
    }

    #[test]
    fn the_document_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/lifecycle.md");
        let rendered = render();
        if std::env::var_os("HEIRLOOM_BLESS").is_some() {
            std::fs::write(path, &rendered).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap() == rendered,
            "src/lifecycle.md is out of date; write it anew with \
             HEIRLOOM_BLESS=1 cargo test --lib the_document_is_the_table"
        );
    }

    fn render() -> String {
        let mut text = String::from(
            "The lifecycle of a process as one pure, total table.\n\
             \n\
             A cell names the state that follows and what is done, in this order.\n\
             `·` means that the event is heard and changes nothing, `—` that it cannot\n\
             happen there.\n",
        );
        for event in EVENTS {
            write!(
                text,
                "\n### {event:?}\n\n| state | phase | next | effects |\n|---|---|---|---|\n"
            )
            .unwrap();
            for state in STATES {
                let phase = state.phase();
                let (next, effects) = match step(state, event) {
                    None => ("—".to_owned(), String::new()),
                    Some((next, [])) if next == state => ("·".to_owned(), String::new()),
                    Some((next, effects)) => {
                        let names: Vec<String> =
                            effects.iter().map(|effect| format!("{effect:?}")).collect();
                        (format!("{next:?}"), names.join(", "))
                    }
                };
                writeln!(text, "| {state:?} | {phase} | {next} | {effects} |").unwrap();
            }
        }
        text
    }
}
