//! `docs/DISAGREEMENTS.md`: every way in which another judge's verdict is not ours, and why. Read by people and by
//! the tests alike.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// What is compared with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Path and name, by `openssl verify`.
    Chain,
    /// What `-x509_strict` adds to that.
    Strict,
    /// One staple, by `openssl ocsp`.
    Staple,
    /// A record's signature, by `openssl dgst`.
    Record,
    /// A key document, by Amazon's script.
    Reference,
}

const STAGES: [(Stage, &str); 5] = [
    (Stage::Chain, "chain"),
    (Stage::Strict, "strict"),
    (Stage::Staple, "staple"),
    (Stage::Record, "record"),
    (Stage::Reference, "reference"),
];

/// Who refuses what the other accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stricter {
    We,
    They,
    /// Nobody: both give the key, in different words.
    Neither,
}

const STRICTER: [(Stricter, &str); 3] = [
    (Stricter::We, "we"),
    (Stricter::They, "they"),
    (Stricter::Neither, "neither"),
];

/// One case in which the verdicts differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Disagreement {
    pub(crate) stage: Stage,
    pub(crate) stricter: Stricter,
    /// What the stricter one says: all of it must be explained.
    pub(crate) says: Vec<String>,
    /// What was changed in this case.
    pub(crate) knobs: Vec<&'static str>,
}

/// One class of disagreements, reviewed.
#[derive(Debug, Default)]
struct Class {
    key: String,
    stage: Option<Stage>,
    stricter: Option<Stricter>,
    says: BTreeSet<String>,
    variations: BTreeSet<String>,
    reason: String,
}

/// The list.
pub(crate) struct Reviewed(Vec<Class>);

impl Reviewed {
    /// Reads the list, of which every entry must be complete.
    pub(crate) fn read(text: &str) -> Self {
        let mut classes: Vec<Class> = Vec::new();
        for line in text.lines() {
            if let Some(key) = line.strip_prefix("### ") {
                assert!(
                    classes.iter().all(|class| class.key != key),
                    "`{key}` stands twice"
                );
                classes.push(Class {
                    key: key.to_owned(),
                    ..Class::default()
                });
                continue;
            }
            if line.starts_with('#') {
                // A heading of another level ends the entry before it.
                classes.push(Class::default());
                continue;
            }
            let Some(class) = classes.last_mut().filter(|class| !class.key.is_empty()) else {
                continue;
            };
            let quoted = |list: &str| {
                list.split('`')
                    .skip(1)
                    .step_by(2)
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            if let Some(stage) = line.strip_prefix("- stage: ") {
                class.stage = STAGES
                    .iter()
                    .find(|(_, name)| *name == stage)
                    .map(|(stage, _)| *stage);
            } else if let Some(who) = line.strip_prefix("- stricter: ") {
                class.stricter = STRICTER
                    .iter()
                    .find(|(_, name)| *name == who)
                    .map(|(who, _)| *who);
            } else if let Some(says) = line.strip_prefix("- says: ") {
                class.says.extend(quoted(says));
            } else if let Some(list) = line.strip_prefix("- when: ") {
                class.variations.extend(quoted(list));
            } else {
                class.reason.push_str(line);
            }
        }
        classes.retain(|class| !class.key.is_empty());
        for class in &classes {
            let complete = class.stage.is_some()
                && class.stricter.is_some()
                && !class.says.is_empty()
                && !class.variations.is_empty()
                && class.reason.trim().len() > 20;
            assert!(complete, "the entry is not complete: {class:?}");
        }
        Self(classes)
    }

    /// What is wrong with the list in view of what was found in `stages`: disagreements that it does not explain, and,
    /// where the judge is the one it was written for, explanations of what does not occur.
    pub(crate) fn compare(&self, stages: &[Stage], found: &[Disagreement], same_judge: bool) -> String {
        let mut wrong = String::new();
        let mut used = BTreeSet::new();
        for disagreement in found {
            let explains = |class: &&Class, said: &String| {
                class.stage == Some(disagreement.stage)
                    && class.stricter == Some(disagreement.stricter)
                    && class.says.contains(said)
                    && disagreement
                        .knobs
                        .iter()
                        .any(|knob| class.variations.contains(*knob))
            };
            for said in &disagreement.says {
                let classes: Vec<&Class> = self.0.iter().filter(|class| explains(class, said)).collect();
                if classes.is_empty() {
                    writeln!(wrong, "unexplained: `{said}` of {disagreement:?}").unwrap();
                }
                for class in classes {
                    used.insert((class.key.as_str(), said.as_str()));
                    // A pair of changes may be explained by either; one alone is certainly the cause.
                    for knob in disagreement
                        .knobs
                        .iter()
                        .filter(|_| disagreement.knobs.len() == 1)
                    {
                        used.insert((class.key.as_str(), knob));
                    }
                }
            }
        }
        let ours = self
            .0
            .iter()
            .filter(|class| same_judge && class.stage.is_some_and(|stage| stages.contains(&stage)));
        for class in ours {
            for item in class.says.iter().chain(&class.variations) {
                if !used.contains(&(class.key.as_str(), item.as_str())) {
                    writeln!(wrong, "`{}`: `{item}` does not occur any more", class.key).unwrap();
                }
            }
        }
        wrong
    }
}
