//! One kill: how it comes to the moment, and what is looked at afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use super::point::{Moment, Point, Role, Section};
use super::visitors::{self, Contact, Facts, Visit, Visitors};
use crate::kit::{
    Address, Client, Config, End, Failure, Launch, PATIENCE, Process, Service, Whom, example,
    pid_in,
};

/// What brings a message or an effect about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scenario {
    /// A restart, with a request in flight.
    Restart,
    /// A restart, and nothing is left for the predecessor to do.
    Departure,
    /// Another `SIGHUP` while the successor starts.
    ReloadWhileStarting,
    /// Another `SIGHUP` while the successor is on probation.
    ReloadOnProbation,
    /// The successor gets one while it starts.
    ReloadOfTheSuccessor,
    /// The successor does not get ready in time.
    TooSlow,
    /// So it does, and is not the process that was started.
    TooSlowAndWrapped,
    /// An address cannot be bound.
    Unbindable,
    /// The successor exits at once.
    Exits,
    /// The successor panics when it serves.
    PanicsOnProbation,
    /// It cannot write its PID file any more when it is to do so.
    CannotPublish,
    /// The predecessor stands still from the probation on.
    FrozenPredecessor,
    /// The predecessor is told to stop while the successor is on probation.
    StopOnProbation,
    /// The successor is told to stop on its probation.
    StopOfTheSuccessor,
    /// So it is, and announces the stop.
    AnnouncedStopOfTheSuccessor,
    /// It is told so twice.
    SecondStopOfTheSuccessor,
    /// The predecessor is told to stop twice while it drains.
    SecondStopWhileDraining,
    /// There is no restart, and the process is told to stop.
    Stop,
    /// So it is, and announces the stop.
    AnnouncedStop,
    /// It is told so twice.
    SecondStop,
    /// The successor is killed when it is proven, while the predecessor drains.
    LostAfterwards,
    /// And then there is another `SIGHUP`.
    ReloadAfterLoss,
}

impl Scenario {
    /// `None` for what nobody has thought of.
    pub(super) fn of(point: &Point) -> Option<Self> {
        Some(match (point.section, point.what.as_str()) {
            (
                Section::FromPredecessor,
                "welcome" | "listeners" | "serve" | "connections" | "publish" | "proven",
            ) => Scenario::Restart,
            (Section::FromPredecessor, "handed_over") => Scenario::Departure,
            (Section::FromPredecessor, "reload") => Scenario::ReloadOnProbation,
            (Section::FromPredecessor, "stop") => Scenario::StopOnProbation,
            (Section::FromPredecessor, "dismissed") => match point.moment {
                Moment::Before | Moment::After => Scenario::TooSlow,
                // Otherwise it does not live to hear it.
                Moment::OnReceipt => Scenario::TooSlowAndWrapped,
            },
            (Section::FromSuccessor, "get_listener" | "ready" | "adopted" | "published") => {
                Scenario::Restart
            }
            (Section::FromSuccessor, "stopping") => Scenario::StopOfTheSuccessor,
            (Section::FromSuccessor, "failed") => Scenario::Unbindable,
            (
                Section::InPredecessor,
                "SendListeners" | "StopAccepting" | "SendServe" | "StartHandover"
                | "StartProbation" | "SendPublish" | "SendProven" | "Relinquish" | "CloseListeners"
                | "StartDeadline" | "AwaitDrained",
            ) => Scenario::Restart,
            (Section::InPredecessor, "SendReload") => Scenario::ReloadWhileStarting,
            (Section::InPredecessor, "SendStop" | "StartDrain") => Scenario::StopOnProbation,
            (Section::InPredecessor, "Kill") => Scenario::TooSlow,
            (Section::InPredecessor, "Report") => Scenario::SecondStopWhileDraining,
            (Section::InPredecessor, "Exit") => Scenario::Departure,
            (Section::InSuccessor, "Publish") => Scenario::Restart,
            (Section::InSuccessor, "Fence") => Scenario::FrozenPredecessor,
            (Section::InSuccessor, "Spawn") => Scenario::ReloadOfTheSuccessor,
            (
                Section::InSuccessor,
                "SendStopping" | "StopAccepting" | "CloseListeners" | "StartDrain"
                | "StartDeadline" | "AwaitDrained",
            ) => Scenario::StopOfTheSuccessor,
            (Section::InSuccessor, "StartRetirement") => Scenario::AnnouncedStopOfTheSuccessor,
            (Section::InSuccessor, "Report" | "Exit") => Scenario::SecondStopOfTheSuccessor,
            (Section::OnItsOwn, "Spawn") => Scenario::Restart,
            (
                Section::OnItsOwn,
                "SendStopping" | "StopAccepting" | "CloseListeners" | "StartDrain"
                | "StartDeadline" | "AwaitDrained",
            ) => Scenario::Stop,
            (Section::OnItsOwn, "StartRetirement") => Scenario::AnnouncedStop,
            (Section::OnItsOwn, "Report" | "Exit") => Scenario::SecondStop,
            (Section::OnItsOwn, "Bury") => Scenario::Exits,
            (Section::OnItsOwn, "Resume") => Scenario::PanicsOnProbation,
            (Section::OnItsOwn, "Republish") => Scenario::CannotPublish,
            (Section::OnItsOwn, "Release") => Scenario::LostAfterwards,
            (Section::OnItsOwn, "SendReload") => Scenario::ReloadAfterLoss,
            _ => return None,
        })
    }

    /// What the predecessor is started with.
    fn first(self, config: Config) -> Config {
        match self {
            // Long enough for a signal in it.
            Scenario::ReloadOnProbation
            | Scenario::StopOnProbation
            | Scenario::StopOfTheSuccessor
            | Scenario::AnnouncedStopOfTheSuccessor
            | Scenario::SecondStopOfTheSuccessor
            | Scenario::CannotPublish => config.probation_ms(3_000),
            // It is given what these two are together.
            Scenario::FrozenPredecessor => config.probation_ms(3_000).drain_timeout_ms(1),
            Scenario::PanicsOnProbation => config.probation_ms(20_000),
            Scenario::AnnouncedStop => config.shutdown_delay_ms(300),
            // Long enough for the good successor at the end of the story.
            Scenario::TooSlow | Scenario::TooSlowAndWrapped => config.ready_timeout_ms(1_500),
            Scenario::Restart
            | Scenario::Departure
            | Scenario::ReloadWhileStarting
            | Scenario::ReloadOfTheSuccessor
            | Scenario::Unbindable
            | Scenario::Exits
            | Scenario::SecondStopWhileDraining
            | Scenario::Stop
            | Scenario::SecondStop
            | Scenario::LostAfterwards
            | Scenario::ReloadAfterLoss => config,
        }
    }

    /// Whether it ends the service.
    fn is_a_stop(self) -> bool {
        match self {
            Scenario::Stop
            | Scenario::AnnouncedStop
            | Scenario::SecondStop
            | Scenario::StopOnProbation
            | Scenario::StopOfTheSuccessor
            | Scenario::AnnouncedStopOfTheSuccessor
            | Scenario::SecondStopOfTheSuccessor => true,
            Scenario::Restart
            | Scenario::Departure
            | Scenario::ReloadWhileStarting
            | Scenario::ReloadOnProbation
            | Scenario::ReloadOfTheSuccessor
            | Scenario::TooSlow
            | Scenario::TooSlowAndWrapped
            | Scenario::Unbindable
            | Scenario::Exits
            | Scenario::PanicsOnProbation
            | Scenario::CannotPublish
            | Scenario::FrozenPredecessor
            // By then it is not the service any more.
            | Scenario::SecondStopWhileDraining
            | Scenario::LostAfterwards
            | Scenario::ReloadAfterLoss => false,
        }
    }

    /// What the successor is started with; it can have its PID file in the
    /// directory `lost`, which will have gone.
    fn second(self, config: Config, lost: &Path) -> Config {
        match self {
            Scenario::TooSlow | Scenario::TooSlowAndWrapped => config.init_ms(2_500),
            Scenario::Unbindable => config.also_on("unix:/nowhere/at/all/api.sock"),
            Scenario::AnnouncedStopOfTheSuccessor => config.shutdown_delay_ms(300),
            Scenario::Exits => config.fault("exit"),
            Scenario::PanicsOnProbation => config.fault("panic-after-ready"),
            Scenario::CannotPublish => {
                fs::create_dir(lost).unwrap();
                config.pid_file(lost.join("api.pid").to_str().unwrap())
            }
            Scenario::Restart
            | Scenario::Departure
            | Scenario::ReloadWhileStarting
            | Scenario::ReloadOnProbation
            | Scenario::ReloadOfTheSuccessor
            | Scenario::StopOnProbation
            | Scenario::StopOfTheSuccessor
            | Scenario::SecondStopOfTheSuccessor
            | Scenario::SecondStopWhileDraining
            | Scenario::Stop
            | Scenario::AnnouncedStop
            | Scenario::SecondStop
            | Scenario::FrozenPredecessor
            | Scenario::LostAfterwards
            | Scenario::ReloadAfterLoss => config,
        }
    }
}

/// Tells the story of one kill, checks everything that must hold after each,
/// and returns what may be different from one to the other, in words. These
/// must be those of the document, unless they are to become it.
pub(super) fn tell(point: &Point, is_blessing: bool) -> String {
    let mut story = Story::begin(point);
    story.come_to_the_kill();
    let outcome = story.look_around();
    assert!(
        outcome == point.outcome || is_blessing,
        "{outcome:?} instead of {:?}",
        point.outcome
    );
    outcome
}

struct Story<'a> {
    point: &'a Point,
    scenario: Scenario,
    service: Service,
    /// What all generations are started with if nothing is to go wrong.
    config: Config,
    unix: Address,
    predecessor: Rc<Process>,
    /// Have been answered once, and wait.
    idle: Vec<Contact>,
    /// What has been asked on them, and how often.
    asked: Vec<Visit>,
    questions: usize,
    /// Has a request in flight in the predecessor.
    busy: Option<Client>,
    /// Has one in the successor.
    busy_there: Option<Client>,
    /// Has come to an end of another kind too: the scenario has killed it, made
    /// it panic, or told it twice to stop.
    also_cut: Option<i32>,
    /// The descriptors of a process that serves the idle and the busy ones, and
    /// one more.
    descriptors: BTreeMap<String, usize>,
    visitors: Option<Visitors>,
}

impl<'a> Story<'a> {
    fn begin(point: &'a Point) -> Self {
        let scenario = Scenario::of(point).expect("something brings it about");
        let launch = Launch::api(Config::new());
        let unix = format!("unix:{}", launch.dir().join("api.sock").display());
        let pid_file = launch.dir().join("api.pid");
        let config = Config::on(&["127.0.0.1:0", &unix])
            .probation_ms(100)
            // Whatever is idle is there until it has been asked.
            .limit("drain_grace_ms", 5_000)
            .pid_file(pid_file.to_str().unwrap());
        let mut first = scenario.first(config.clone());
        if point.witness() == Role::Predecessor {
            first = first.kill(1, &point.record(), whom(point));
        }
        let launch = match scenario {
            Scenario::TooSlowAndWrapped => launch.own_binary(),
            _ => launch,
        };
        let service = launch.config(first).start();
        let tcp = service.address();
        let unix: Address = unix.parse().unwrap();
        // One of them has not asked anything yet.
        let addresses = [&tcp, &unix].into_iter().cycle();
        let mut idle: Vec<Contact> = addresses
            .take(count_of_idle(point))
            .map(|address| Contact::make(address).unwrap())
            .collect();
        let acquaint = |(number, contact): (usize, &mut Contact)| {
            let word = format!("acquainted-{number}");
            contact.ask(&word, 0)
        };
        let asked = idle.iter_mut().enumerate().skip(1).map(acquaint).collect();
        let busy = busy(&tcp);
        let settled = service.settle();
        let descriptors = service.current().kinds_of_descriptors();
        drop(settled);
        let visitors = Visitors::arrive("before", &[tcp, unix.clone()]);
        visitors.wait_for_visits(2);
        Story {
            point,
            scenario,
            predecessor: service.current(),
            service,
            config,
            unix,
            idle,
            asked,
            questions: 0,
            busy: Some(busy),
            busy_there: None,
            also_cut: None,
            descriptors,
            visitors: Some(visitors),
        }
    }

    /// Does what leads to the kill.
    fn come_to_the_kill(&mut self) {
        let lost = self.service.dir().join("lost");
        let mut second = self.scenario.second(self.config.clone(), &lost);
        if self.point.witness() == Role::Successor {
            let pid = self.predecessor.pid();
            let mut record = self.point.record();
            // After that it has to do with a successor of its own.
            if record != "performed Spawn" {
                record = format!("predecessor {pid}: {record}");
            }
            second = second.kill(2, &record, whom(self.point));
        }
        let predecessor = Rc::clone(&self.predecessor);
        match self.scenario {
            Scenario::ReloadWhileStarting | Scenario::ReloadOfTheSuccessor => {
                let held = self.service.restart_held();
                if self.scenario == Scenario::ReloadWhileStarting {
                    predecessor.hup();
                    let log = self.service.log();
                    log.wait_for("another restart follows this one");
                } else {
                    predecessor.only_child().hup();
                }
                held.release(&second);
                return;
            }
            Scenario::TooSlowAndWrapped => {
                let api = example("api");
                let script = format!("#!/bin/sh\n{} \"$@\"\nexit $?\n", api.display());
                self.service.binary().replace_with_text(&script, 0o755);
            }
            _ => {}
        }
        self.service.configure(&second);
        match self.scenario {
            Scenario::Stop | Scenario::AnnouncedStop => return predecessor.term(),
            Scenario::SecondStop => {
                predecessor.term();
                self.service.wait_phase("draining");
                return predecessor.int();
            }
            _ => predecessor.hup(),
        }
        match self.scenario {
            Scenario::Departure => {
                self.next_to_serve(&[predecessor.pid()]);
                finish(self.busy.take().unwrap()).unwrap();
            }
            Scenario::ReloadOnProbation => {
                self.wait_for_probation();
                predecessor.hup();
            }
            Scenario::StopOnProbation => {
                self.wait_for_probation();
                predecessor.term();
            }
            Scenario::StopOfTheSuccessor | Scenario::AnnouncedStopOfTheSuccessor => {
                self.wait_for_probation().term();
            }
            Scenario::SecondStopOfTheSuccessor => {
                let successor = self.wait_for_probation();
                self.busy_there = Some(busy(&self.unix));
                successor.term();
                self.service.log().wait_for("generation 2 is draining");
                successor.int();
                self.also_cut = Some(successor.pid());
            }
            Scenario::SecondStopWhileDraining => {
                self.service.log().wait_for("performed AwaitDrained");
                predecessor.term();
                predecessor.int();
                self.also_cut = Some(predecessor.pid());
            }
            Scenario::LostAfterwards | Scenario::ReloadAfterLoss => {
                self.service.log().wait_for("performed AwaitDrained");
                let successor = predecessor.only_child();
                successor.kill();
                self.also_cut = Some(successor.pid());
                if self.scenario == Scenario::ReloadAfterLoss {
                    self.service.log().wait_for("performed Release");
                    predecessor.hup();
                }
            }
            Scenario::CannotPublish => {
                self.also_cut = Some(self.wait_for_probation().pid());
                fs::remove_dir_all(&lost).unwrap();
            }
            Scenario::FrozenPredecessor => {
                self.wait_for_probation();
                predecessor.freeze();
                if self.point.moment == Moment::After {
                    self.also_cut = Some(predecessor.pid());
                }
            }
            Scenario::PanicsOnProbation => {
                self.also_cut = Some(self.next_to_serve(&[predecessor.pid()]));
            }
            Scenario::Restart
            | Scenario::ReloadWhileStarting
            | Scenario::ReloadOfTheSuccessor
            | Scenario::TooSlow
            | Scenario::TooSlowAndWrapped
            | Scenario::Unbindable
            | Scenario::Exits
            | Scenario::Stop
            | Scenario::AnnouncedStop
            | Scenario::SecondStop => {}
        }
    }

    /// Waits until the successor has everything that could move, and has
    /// answered on some of that.
    fn wait_for_probation(&mut self) -> Process {
        let successor = self.next_to_serve(&[self.predecessor.pid()]);
        let log = self.service.log();
        log.wait_for("generation 1 has handed over: ");
        for mut contact in self.idle.split_off(self.idle.len() / 2) {
            assert!(self.ask(&mut contact), "the successor has it");
            self.idle.push(contact);
        }
        // When this is answered, what it has noted of the others is noted.
        acquainted(&self.unix);
        Process::open(successor)
    }

    /// Looks at what the kill has left.
    fn look_around(&mut self) -> String {
        let log = self.service.log().clone();
        let killed = self.wait_killed();
        // Whoever comes after this is to be good.
        self.service.configure(&self.config);
        if self.scenario == Scenario::FrozenPredecessor && self.point.victim == Role::Successor {
            self.predecessor.thaw();
        }
        if self.scenario == Scenario::TooSlowAndWrapped {
            self.service.binary().restore();
        }
        let cut: Vec<i32> = [Some(killed), self.also_cut]
            .into_iter()
            .flatten()
            .collect();
        let request_lost = self.finish_request(&cut);
        drop(self.busy_there.take());
        let all = self.idle.len();
        self.ask_idle();
        let kept = self.idle.len();
        let serves = self.wait_for_whoever_serves();
        let facts = self.facts(cut, serves.as_ref().map(|(process, _)| process.pid()));

        let visitors = self.visitors.take().unwrap();
        if let Some((_, addresses)) = &serves {
            visitors.go_on(&addresses[1]);
            visitors.wait_for_visits(3);
        }
        let mut visits = visitors.leave();
        visits.append(&mut self.asked);
        if let Some(pid) = facts.serves {
            assert!(self.say_so(pid), "it goes on serving");
        }
        visitors::check(&visits, &log, &facts);

        match &serves {
            Some((process, addresses)) => {
                let comes_back = self.point.victim == Role::Successor;
                assert!(kept == all || !comes_back, "only {kept} of {all} came back");
                self.check_serving(process, addresses);
                self.restart(process);
            }
            None => {
                let phases = self.phases();
                let accepted = |pid| phases.get(pid).is_some_and(|it| !is_draining(it));
                // One that is dismissed may begin to stop before it is killed.
                let is_dismissed = self.scenario == Scenario::CannotPublish;
                assert!(
                    facts.killed.iter().any(accepted) || is_dismissed || self.scenario.is_a_stop(),
                    "somebody is left who should serve"
                );
            }
        }
        self.words(facts.serves, all - kept, all, request_lost)
    }

    /// Finishes the request in the predecessor, unless that is done; tells
    /// whether it is lost.
    fn finish_request(&mut self, cut: &[i32]) -> bool {
        let predecessor = self.predecessor.pid();
        match self.busy.take().map(finish) {
            None => false,
            Some(Ok(pid)) => {
                assert_eq!(pid, predecessor, "nobody else has its request");
                false
            }
            Some(Err(failure)) => {
                let is_death = matches!(failure, Failure::Closed | Failure::Reset);
                assert!(is_death && cut.contains(&predecessor), "{failure:?}");
                true
            }
        }
    }

    fn facts(&self, killed: Vec<i32>, serves: Option<i32>) -> Facts {
        let log = self.service.log();
        let served = log.lines_with(SERVES);
        let in_use = log.lines_with("took back ").first().map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let at = words.iter().position(|word| *word == "were").unwrap();
            words[at - 1].parse().unwrap()
        });
        Facts {
            had_served: served.iter().any(|line| killed.contains(&pid_in(line))),
            killed,
            predecessor: self.predecessor.pid(),
            serves,
            listeners_lost: log.count("died before it handed over its listeners") > 0,
            in_use,
        }
    }

    /// What the document says of it.
    fn words(&self, serves: Option<i32>, lost: usize, all: usize, request_lost: bool) -> String {
        if self.is_after_the_last_word() {
            let words = match serves {
                Some(pid) => (pid, lost) == (self.predecessor.pid(), 0),
                None => lost == all,
            };
            assert!(words && !request_lost, "{serves:?}, {lost} lost");
            return "the predecessor; or nobody, lost: connections".to_owned();
        }
        let who = match serves {
            // Being started takes its time.
            _ if self.is_at("Spawn", Moment::After) => "nobody, or the next one if it was started",
            None => "nobody",
            Some(pid) if pid == self.predecessor.pid() => "the predecessor",
            Some(pid) if pid == self.successor() => "the successor",
            Some(_) => "the next one",
        };
        let connections = match lost {
            _ if self.is_while_they_move() => "connections not sent yet",
            0 => "",
            lost if lost == all => "connections",
            _ => "some connections",
        };
        let lost = [connections, if request_lost { "a request" } else { "" }];
        let lost: Vec<&str> = lost.into_iter().filter(|it| !it.is_empty()).collect();
        match lost.as_slice() {
            [] => who.to_owned(),
            lost => format!("{who}; lost: {}", lost.join(", ")),
        }
    }

    /// Whether the successor is killed when it has just said `published`: the
    /// predecessor may hear that of a process that lives, or that is dead.
    fn is_after_the_last_word(&self) -> bool {
        self.point.victim == Role::Successor
            && (self.is_at("published", Moment::After) || self.is_at("Publish", Moment::After))
    }

    /// Whether the predecessor is killed at a moment, by the successor's clock,
    /// at which it may be sending connections. A message may hold only some.
    fn is_while_they_move(&self) -> bool {
        let moments: &[Moment] = match self.point.what.as_str() {
            "serve" => &[Moment::OnReceipt],
            "ready" => &[Moment::After],
            "connections" => &[Moment::After, Moment::OnReceipt],
            "adopted" => &[Moment::Before, Moment::After, Moment::OnReceipt],
            _ => &[],
        };
        self.point.victim == Role::Predecessor && moments.contains(&self.point.moment)
    }

    fn is_at(&self, what: &str, moment: Moment) -> bool {
        self.point.what == what && self.point.moment == moment
    }

    /// Waits until the process is dead that is to be killed.
    fn wait_killed(&self) -> i32 {
        let line = self.service.log().wait_for("WARN killing ");
        let (_, pid) = line.split_once("killing ").unwrap();
        let pid = pid.split(' ').next().unwrap().parse().unwrap();
        let (is_predecessor, role) = (pid == self.predecessor.pid(), self.point.victim);
        assert_eq!(is_predecessor, role == Role::Predecessor, "{line}");
        if let Some(process) = Process::open_if_there(pid) {
            let end = process.wait_exit();
            // One that has said that it is leaving may be faster.
            let leaves = ["failed", "handed_over"];
            let leaves = leaves.map(|what| self.is_at(what, Moment::OnReceipt));
            assert!(
                matches!(end, End::Killed(9) | End::Unknown) || leaves.contains(&true),
                "the end of the killed process: {end:?}"
            );
        }
        pid
    }

    /// The process that was started first after the predecessor.
    fn successor(&self) -> i32 {
        let log = self.service.log();
        log.wait_until("a successor", |lines| {
            let mut pids = lines.iter().map(|line| pid_in(line));
            pids.find(|pid| *pid != self.predecessor.pid())
        })
    }

    /// Asks on every idle connection, and forgets those that are gone.
    fn ask_idle(&mut self) {
        let contacts = std::mem::take(&mut self.idle);
        for mut contact in contacts {
            if self.ask(&mut contact) {
                self.idle.push(contact);
            }
        }
    }

    /// Whether there is an answer.
    fn ask(&mut self, contact: &mut Contact) -> bool {
        let visit = contact.ask(&format!("idle-{}", self.questions), 0);
        self.questions += 1;
        let is_answered = visit.is_answered();
        self.asked.push(visit);
        is_answered
    }

    /// Waits until another process than these has begun to serve.
    fn next_to_serve(&self, known: &[i32]) -> i32 {
        let log = self.service.log();
        log.wait_until("another process that serves", |lines| {
            let lines = lines.iter().filter(|line| line.contains(SERVES));
            let mut pids = lines.map(|line| pid_in(line));
            pids.find(|pid| !known.contains(pid))
        })
    }

    /// Waits until it is clear who serves, if anybody does.
    fn wait_for_whoever_serves(&self) -> Option<(Process, Vec<Address>)> {
        let log = self.service.log();
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(
                Instant::now() < deadline,
                "nobody serves, and somebody lives"
            );
            let here = log.here();
            let ended = log.has_ended();
            if let Some((pid, addresses)) = self.serving_by_the_log()
                && self.say_so(pid)
                // It has heard that it is on its own.
                && self.published() == pid.to_string()
                // And has done, and said, what follows from that: it is asked
                // something afterwards, which it says before it answers.
                && self.say_so(pid)
                && self.serving_by_the_log().is_some_and(|(same, _)| same == pid)
            {
                return Some((Process::open(pid), addresses));
            }
            if ended {
                return None;
            }
            log.wait_for_more(here);
        }
    }

    /// Who serves, and has no successor under way, as far as the log tells.
    fn serving_by_the_log(&self) -> Option<(i32, Vec<Address>)> {
        let mut alive = self.service.processes();
        // One that retires is the published one, and is going.
        for line in self.service.log().lines_with("stopping in ") {
            alive.retain(|pid| *pid != pid_in(&line));
        }
        let mut phases = self.phases().into_iter();
        let (pid, line) = phases.find(|(pid, line)| alive.contains(pid) && !is_draining(line))?;
        line.contains(SERVES).then(|| (pid, addresses_in(&line)))
    }

    /// What each process has said last of its phase.
    fn phases(&self) -> BTreeMap<i32, String> {
        let mut last = BTreeMap::new();
        for line in self.service.log().lines_with(" INFO generation ") {
            let ends = [" is forking", " is handoff", DRAINS];
            if line.contains(SERVES) || ends.iter().any(|end| line.ends_with(end)) {
                last.insert(pid_in(&line), line);
            }
        }
        last
    }

    /// What is in the PID file.
    fn published(&self) -> String {
        let pid_file = self.service.dir().join("api.pid");
        let contents = fs::read_to_string(pid_file).unwrap_or_default();
        contents.trim().to_owned()
    }

    /// Has the process say a word, and waits until it is in the log.
    fn say_so(&self, pid: i32) -> bool {
        let log = self.service.log();
        let word = format!("settled-{}", log.count("answering settled-"));
        let asked = Client::connect(&self.unix)
            .and_then(|mut client| client.get(&format!("/slow?ms=0&say={word}")));
        match asked {
            Ok(answer) if answer.pid() == pid => {
                log.wait_for(&format!("answering {word}"));
                true
            }
            _ => false,
        }
    }

    /// Checks the process that serves, and that nobody else is there.
    fn check_serving(&self, process: &Process, addresses: &[Address]) {
        for address in addresses.iter().cycle().take(6) {
            let answer = Client::connect(address).unwrap().get("/pid").unwrap();
            assert_eq!(answer.pid(), process.pid(), "who answers at {address}");
        }
        for pid in self.service.processes() {
            if pid != process.pid()
                && let Some(other) = Process::open_if_there(pid)
            {
                other.wait_exit();
            }
        }
        assert_eq!(self.service.processes(), [process.pid()]);
        assert_eq!(self.published(), process.pid().to_string(), "the PID file");
        let mut expected = self.descriptors.clone();
        // The idle ones that are left, and one more; not the busy one.
        let gone = count_of_idle(self.point) + 1 - self.idle.len();
        *expected.get_mut("socket").unwrap() -= gone;
        let deadline = Instant::now() + PATIENCE;
        // Whoever has left, and the killed child, are noticed soon.
        loop {
            let _client = acquainted(&self.unix);
            let (descriptors, children) = (process.kinds_of_descriptors(), process.children());
            if descriptors == expected && children.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "children {children:?}, descriptors {descriptors:?}, not {expected:?}"
            );
        }
    }

    /// The next restart works.
    fn restart(&mut self, process: &Process) {
        let known: Vec<i32> = self
            .service
            .log()
            .lines_with(SERVES)
            .iter()
            .map(|line| pid_in(line))
            .collect();
        let visitors = Visitors::arrive("after", std::slice::from_ref(&self.unix));
        visitors.wait_for_visits(1);
        visitors.go_on(&self.unix);
        process.hup();
        let next = self.next_to_serve(&known);
        visitors.wait_for_visits(3);
        let log = self.service.log().clone();
        let facts = Facts {
            killed: Vec::new(),
            predecessor: process.pid(),
            had_served: false,
            serves: Some(next),
            listeners_lost: false,
            in_use: Some(0),
        };
        let kept = self.idle.len();
        self.ask_idle();
        assert_eq!(self.idle.len(), kept, "idle connections after a restart");
        let mut visits = visitors.leave();
        visits.append(&mut self.asked);
        assert!(self.say_so(next), "it goes on serving");
        visitors::check(&visits, &log, &facts);
    }
}

/// What a process says of its phase.
const SERVES: &str = " is serving on ";
const DRAINS: &str = " is draining";

fn is_draining(line: &str) -> bool {
    line.ends_with(DRAINS)
}

/// How many connections are idle when it begins.
fn count_of_idle(point: &Point) -> usize {
    let is_about_them = matches!(point.what.as_str(), "connections" | "adopted");
    match (is_about_them, point.victim) {
        // Several batches of those that come back.
        (true, Role::Successor) => 80,
        // One batch, so that all of them have the same fate.
        _ => 9,
    }
}

fn whom(point: &Point) -> Whom {
    match point.witness() == point.victim {
        true => Whom::Itself,
        false => Whom::Other,
    }
}

/// A client that has been answered once.
fn acquainted(address: &Address) -> Client {
    let mut client = Client::connect(address).unwrap();
    client.get("/").unwrap();
    client
}

/// A client whose request is being handled until it sends the body.
fn busy(address: &Address) -> Client {
    let mut client = Client::connect(address).unwrap();
    client
        .send("POST /echo HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        .unwrap();
    assert_eq!(client.answer_head().unwrap().status, 100);
    client
}

/// Who answers a request when its body comes.
fn finish(mut busy: Client) -> Result<i32, Failure> {
    busy.send("hello")?;
    let answer = busy.answer()?;
    assert_eq!(answer.text(), "hello");
    Ok(answer.pid())
}

fn addresses_in(line: &str) -> Vec<Address> {
    let (_, addresses) = line.split_once(SERVES).unwrap();
    let addresses = addresses.split(", ");
    addresses.map(|text| text.parse().unwrap()).collect()
}
