//! The hooks of a job: they are told in their order, and what they answer decides who else hears and whether the job
//! goes on. May use: core.

use backstay_core::{Answer, Event, Hook, JobFacts};

/// The hooks that a job has, in the order in which they are told.
#[derive(Default)]
pub struct Hooks {
    hooks: Vec<Box<dyn Hook>>,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.hooks.iter().map(|hook| hook.name())).finish()
    }
}

impl Hooks {
    /// These hooks.
    #[must_use]
    pub fn new(hooks: Vec<Box<dyn Hook>>) -> Self {
        Self { hooks }
    }

    /// Whether there is nobody to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hooks.is_empty()
    }

    /// Gets all of them ready.
    ///
    /// # Errors
    /// Why the job shall not go on, one line.
    pub fn begin(&mut self, facts: &mut JobFacts) -> Result<(), String> {
        self.each(|hook| Some(hook.begin(facts)))
    }

    /// Tells them what happens.
    ///
    /// # Errors
    /// Why the job shall not go on, one line. After an end there is nothing to stop: then it is an error of the job.
    pub fn tell(&mut self, event: Event, facts: &mut JobFacts) -> Result<(), String> {
        self.each(|hook| hook.wants(event).then(|| hook.call(event, facts)))
    }

    fn each(&mut self, mut ask: impl FnMut(&mut Box<dyn Hook>) -> Option<Answer>) -> Result<(), String> {
        let mut result = Ok(());
        let mut stopped = false;
        self.hooks.retain_mut(|hook| {
            if stopped {
                return true;
            }
            let Some(answer) = ask(hook) else { return true };
            match answer {
                Answer::Go => true,
                Answer::StopChain => {
                    stopped = true;
                    true
                }
                Answer::Unsubscribe => false,
                Answer::Veto(reason) | Answer::Failed(reason) => {
                    stopped = true;
                    keep_first(&mut result, hook.name(), &reason);
                    true
                }
                // One that died has nothing to say about the others.
                Answer::Lost(reason) => {
                    keep_first(&mut result, hook.name(), &reason);
                    false
                }
            }
        });
        result
    }
}

fn keep_first(result: &mut Result<(), String>, name: &str, reason: &str) {
    if result.is_ok() {
        *result = Err(format!("{name}: {reason}"));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use backstay_core::{JobKind, JobStatus, Time};

    use super::*;

    type Log = Rc<RefCell<Vec<String>>>;

    struct Scripted {
        name: &'static str,
        answer: Answer,
        deaf: Option<Event>,
        log: Log,
    }

    impl Hook for Scripted {
        fn name(&self) -> &str {
            self.name
        }

        fn begin(&mut self, facts: &mut JobFacts) -> Answer {
            self.log.borrow_mut().push(format!("{} begins {}", self.name, facts.id));
            Answer::Go
        }

        fn wants(&self, event: Event) -> bool {
            self.deaf != Some(event)
        }

        fn call(&mut self, event: Event, facts: &mut JobFacts) -> Answer {
            self.log.borrow_mut().push(format!("{} hears {event:?} {:?}", self.name, facts.volume));
            facts.volume = Some(self.name.to_owned());
            self.answer.clone()
        }
    }

    fn facts() -> JobFacts {
        JobFacts {
            id: 7,
            name: "job".into(),
            kind: JobKind::Backup,
            level: None,
            started: Time::default(),
            status: JobStatus::Created,
            storage: String::new(),
            storage_kind: String::new(),
            attached: false,
            files: 0,
            bytes: 0,
            errors: 0,
            rate: 0,
            volume: None,
        }
    }

    /// Two hooks, the first of which answers this; what they heard of two events, and what came of the first.
    fn heard(answer: Answer) -> (Vec<String>, Result<(), String>) {
        let log = Log::default();
        let hook =
            |name, answer, deaf| Box::new(Scripted { name, answer, deaf, log: Rc::clone(&log) }) as Box<dyn Hook>;
        let mut hooks = Hooks::new(vec![hook("a", answer, None), hook("b", Answer::Go, Some(Event::JobEnd))]);
        let mut facts = facts();
        hooks.begin(&mut facts).unwrap();
        let result = hooks.tell(Event::JobStart, &mut facts);
        let _ = hooks.tell(Event::JobEnd, &mut facts);
        let log = log.borrow()[2..].iter().map(|line| line.replace("hears ", "")).collect();
        (log, result)
    }

    #[test]
    fn all_are_told_in_order_and_see_what_others_changed() {
        let (log, result) = heard(Answer::Go);
        assert_eq!(log, ["a JobStart None", "b JobStart Some(\"a\")", "a JobEnd Some(\"b\")"]);
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn one_can_stop_the_chain_for_an_event_and_hears_the_next() {
        let (log, result) = heard(Answer::StopChain);
        assert_eq!(log, ["a JobStart None", "a JobEnd Some(\"a\")"]);
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn one_that_unsubscribes_hears_no_more_and_the_others_do() {
        let (log, result) = heard(Answer::Unsubscribe);
        assert_eq!(log, ["a JobStart None", "b JobStart Some(\"a\")"]);
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn a_veto_and_a_failure_stop_the_chain_and_give_their_reason() {
        for answer in [Answer::Veto("no".into()), Answer::Failed("no".into())] {
            let (log, result) = heard(answer);
            assert_eq!(log, ["a JobStart None", "a JobEnd Some(\"a\")"]);
            assert_eq!(result, Err("a: no".to_owned()));
        }
    }

    #[test]
    fn one_that_is_lost_is_told_nothing_more_and_the_others_are() {
        let (log, result) = heard(Answer::Lost("died".into()));
        assert_eq!(log, ["a JobStart None", "b JobStart Some(\"a\")"]);
        assert_eq!(result, Err("a: died".to_owned()));
    }
}
