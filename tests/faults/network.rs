//! The way to the metadata service: cut, lossy, forbidden, and the service stopped in mid-sentence. The instance and
//! the service stand in network namespaces of their own with a cable between.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use eic_simulator::faults::{Effect, Fault};
use eic_simulator::{Simulator, World, imds};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::case::{INSTANCE, KEY_LINE};
use crate::common::machine::{in_namespaces, sh};
use crate::ground::{Ground, Run, UID, USER, configuration, each, simulator, tools};

/// What the helper may call a network that carries nothing, or too little.
const CUT: [&str; 3] = ["imds-unreachable", "imds-timeout", "deadline"];

/// The instance in the test's own namespace, the service in another, and a cable.
struct Cable {
    ground: Ground,
    simulator: Simulator,
}

impl Cable {
    fn new() -> Self {
        let ground = Ground::new();
        // A thread may live in another network than its process, and sockets stay in the one they were made in.
        let us = std::process::id();
        let service = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            sh(&format!(
                "ip link set lo up; ip link add metadata type veth peer name instance; ip link set instance netns {us}
                 ip addr add 169.254.169.254/16 dev metadata; ip link set metadata up"
            ));
            let listen = |facts: &mut eic_simulator::world::Instance| {
                facts.listen = vec!["169.254.169.254:80".parse().unwrap()];
            };
            simulator(World::nitro(INSTANCE).change(listen))
        });
        let simulator = service.join().unwrap();
        sh(
            "ip addr add 169.254.1.1/16 dev instance; ip link set instance up; nft add table inet faults
            nft 'add chain inet faults out { type filter hook output priority 0; }'
            nft 'add chain inet faults in { type filter hook input priority 0; }'",
        );
        Self { ground, simulator }
    }

    fn login(&self) -> Run {
        self.ground.login(&self.simulator)
    }

    /// The login under these rules of the packet filter, and the key again without them.
    fn under(&self, rules: &[&str], reasons: &[&str]) -> Result<(), String> {
        self.login().key()?;
        for rule in rules {
            sh(&format!("nft 'add rule inet faults {rule}'"));
        }
        let outcome = self
            .login()
            .refusal(reasons)
            .map_err(|error| format!("{rules:?}: {error}"));
        sh("nft flush table inet faults");
        outcome?;
        self.login().key()
    }
}

#[test]
fn firewall_that_drops_or_rejects_is_unreachable_or_a_time_out() {
    let name = "network::firewall_that_drops_or_rejects_is_unreachable_or_a_time_out";
    if !tools(name, &["nft", "ip"]) {
        return;
    }
    in_namespaces(name, || {
        let cable = Cable::new();
        for (rules, reason) in [
            (["out tcp dport 80 drop"], "imds-timeout"),
            (["in tcp sport 80 drop"], "imds-timeout"),
            (["out tcp dport 80 reject with tcp reset"], "imds-unreachable"),
            (
                ["out tcp dport 80 reject with icmpx admin-prohibited"],
                "imds-unreachable",
            ),
            // The request goes out and no answer comes back.
            (
                ["in tcp sport 80 tcp flags & (syn | psh) == psh drop"],
                "imds-timeout",
            ),
        ] {
            cable.under(&rules, &[reason]).unwrap();
        }
    });
}

#[test]
fn connection_cut_at_any_step_gives_no_key() {
    let name = "network::connection_cut_at_any_step_gives_no_key";
    if !tools(name, &["nft", "ip"]) {
        return;
    }
    in_namespaces(name, || {
        let cable = Cable::new();
        cable.login().key().unwrap();
        let connections = cable.simulator.requests().len();
        let opening = "out tcp dport 80 tcp flags & (syn | ack) == syn numgen inc mod 65536 >=";
        // Of the three staples, which are asked for at once, the path needs two: where the last connection alone is
        // cut, it may have been the third one's.
        for step in 0..connections - 1 {
            for end in ["drop", "reject with tcp reset"] {
                cable.under(&[&format!("{opening} {step} {end}")], &CUT).unwrap();
            }
        }
        // After the last of them nothing is left to cut.
        sh(&format!(
            "nft 'add rule inet faults {opening} {connections} drop'"
        ));
        cable.login().key().unwrap();
    });
}

#[test]
fn firewall_against_the_helpers_user_refuses_it_and_lets_root_pass() {
    let name = "network::firewall_against_the_helpers_user_refuses_it_and_lets_root_pass";
    if !tools(name, &["nft", "ip"]) {
        return;
    }
    in_namespaces(name, || {
        let cable = Cable::new();
        for (end, reason) in [("drop", "imds-timeout"), ("reject", "imds-unreachable")] {
            sh(&format!(
                "nft 'add rule inet faults out meta skuid {UID} tcp dport 80 {end}'"
            ));
            cable.login().refusal(&[reason]).unwrap();
            let mut root = cable.ground.command(&configuration(&cable.simulator));
            std::os::unix::process::CommandExt::uid(&mut root, 0);
            cable.ground.run(root).key().unwrap();
            sh("nft flush table inet faults");
            cable.login().key().unwrap();
        }
    });
}

#[test]
fn lossy_link_gives_the_key_or_says_why_not() {
    let name = "network::lossy_link_gives_the_key_or_says_why_not";
    if !tools(name, &["nft", "ip"]) {
        return;
    }
    in_namespaces(name, || {
        let cable = Cable::new();
        cable.login().key().unwrap();
        for chain in ["out", "in"] {
            sh(&format!(
                "nft 'add rule inet faults {chain} meta l4proto tcp numgen random mod 100 < 30 drop'"
            ));
        }
        let config = configuration(&cable.simulator);
        let login = || cable.ground.run(cable.ground.command(&config));
        each(&[(); 12], |()| login().key_or_refusal(&CUT));
        sh("nft flush table inet faults");
        cable.login().key().unwrap();
    });
}

#[test]
fn link_that_is_down_is_unreachable_or_a_time_out() {
    let name = "network::link_that_is_down_is_unreachable_or_a_time_out";
    if !tools(name, &["nft", "ip"]) {
        return;
    }
    in_namespaces(name, || {
        let cable = Cable::new();
        cable.login().key().unwrap();
        sh("ip link set instance down");
        cable.login().refusal(&["imds-unreachable"]).unwrap();
        sh("ip link set instance up");
        cable.login().key().unwrap();
        // The address is there and nobody answers for it.
        sh("ip neigh replace 169.254.169.254 lladdr 02:00:00:00:00:01 dev instance");
        cable.login().refusal(&["imds-timeout"]).unwrap();
        sh("ip neigh del 169.254.169.254 dev instance");
        cable.login().key().unwrap();
        // No route at all, as in a container without a network.
        sh("ip addr flush dev instance");
        cable.login().refusal(&["imds-unreachable"]).unwrap();
    });
}

/// The simulator as a program of its own, so that it can be stopped.
struct Service {
    child: Child,
    program: PathBuf,
    api: String,
    config: PathBuf,
}

impl Service {
    fn start(program: &Path, state: &Path) -> Self {
        let mut child = Command::new(program)
            .args([
                "serve",
                "--key-lifetime",
                "3600",
                "--until-stdin-closes",
                "--state",
            ])
            .arg(state)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let ready = lines
            .find(|line| line.starts_with("# READY"))
            .expect("the simulator is ready");
        let word = |name: &str| {
            ready
                .split(' ')
                .find_map(|word| word.strip_prefix(name))
                .unwrap()
                .to_owned()
        };
        let config = PathBuf::from(word("config="));
        let slow = "[imds]\nrequest_timeout_ms = 3000\ntotal_timeout_ms = 8000";
        std::fs::write(
            &config,
            std::fs::read_to_string(&config).unwrap().replace("[imds]", slow),
        )
        .unwrap();
        let service = Self {
            child,
            program: program.to_owned(),
            api: word("api="),
            config,
        };
        let key = state.join("key.pub");
        std::fs::write(&key, KEY_LINE).unwrap();
        service.ask(&["push", "--user", USER, "--key", key.to_str().unwrap()]);
        service
    }

    fn ask(&self, words: &[&str]) -> String {
        let output = Command::new(&self.program)
            .args(words)
            .args(["--api", &self.api])
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn service_that_is_stopped_at_any_document_is_a_time_out() {
    let name = "network::service_that_is_stopped_at_any_document_is_a_time_out";
    let program = Path::new(crate::common::run::HELPER).with_file_name("eic-simulator");
    if !program.exists() {
        return crate::common::skip(name, "needs the simulator: cargo build --workspace");
    }
    in_namespaces(name, || {
        let ground = Ground::new();
        let keys = format!("{}{USER}/", imds::ACTIVE_KEYS);
        let documents = [
            None,
            Some(imds::TOKEN),
            Some(keys.as_str()),
            Some(imds::REGION),
            Some(imds::SIGNER_CERT),
            Some(imds::SIGNER_OCSP),
        ];
        each(&documents, |document| {
            let state = tempfile::Builder::new()
                .prefix("stopped-")
                .tempdir_in(ground.directory.path())
                .unwrap();
            std::fs::set_permissions(state.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .unwrap();
            let service = Service::start(&program, state.path());
            let login = || ground.run(ground.command(&service.config));
            login().key()?;
            let outcome = match document {
                None => {
                    service.signal(Signal::SIGSTOP);
                    login()
                }
                Some(path) => std::thread::scope(|scope| {
                    // The answer is late, which leaves the time to see the request and to stop the service.
                    service.ask(&["fault", "--path", path, "delay=2500"]);
                    service.ask(&["clear-requests"]);
                    let run = scope.spawn(login);
                    let given_up = Instant::now() + Duration::from_secs(10);
                    while !service.ask(&["requests"]).contains(&format!("\"{path}\""))
                        && Instant::now() < given_up
                    {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    service.signal(Signal::SIGSTOP);
                    run.join().unwrap()
                }),
            };
            outcome
                .refusal(&["imds-timeout"])
                .map_err(|error| format!("stopped at {document:?}: {error}"))?;
            service.signal(Signal::SIGCONT);
            service.ask(&["clear-faults"]);
            login().key()
        });
    });
}

/// A fault of the network's and one of the service's at once: the deadline is of the whole decision.
#[test]
fn answers_that_are_each_in_time_meet_the_deadline_together() {
    let name = "network::answers_that_are_each_in_time_meet_the_deadline_together";
    in_namespaces(name, || {
        let ground = Ground::new();
        let simulator = crate::ground::nitro();
        ground.login(&simulator).key().unwrap();
        simulator.fault(Fault::under("/", Effect::Delay(1200)));
        ground.login(&simulator).refusal(&["deadline"]).unwrap();
    });
}
