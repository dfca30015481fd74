//! The machine itself: its clock, its disk, its memory, its logger, its file systems.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use eic_simulator::faults::{Effect, Fault};
use eic_simulator::record::{self, Record};
use eic_simulator::{clock, imds};

use crate::common::case::{INSTANCE, KEY_LINE};
use crate::common::machine::{in_namespaces, sh};
use crate::ground::{Ground, USER, configuration, each, long, nitro, tools};

/// Debian's libfaketime, wherever the architecture has it.
fn faketime() -> Option<PathBuf> {
    let places = ["/usr/lib", "/usr/lib64"];
    let found = places
        .iter()
        .flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten());
    found
        .map(|entry| entry.path().join("faketime/libfaketime.so.1"))
        .find(|library| library.exists())
}

#[test]
fn clock_that_is_wrong_refuses_for_what_has_ended_or_not_begun() {
    let name = "host::clock_that_is_wrong_refuses_for_what_has_ended_or_not_begun";
    let Some(library) = faketime() else {
        return crate::common::skip(name, "needs libfaketime: tests/requirements installs it");
    };
    in_namespaces(name, || {
        let ground = Ground::new();
        let simulator = nitro();
        let config = configuration(&simulator);
        let at = |shift: &str| {
            let mut command = ground.command(&config);
            command
                .env("LD_PRELOAD", &library)
                .env("FAKETIME", shift)
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            ground.run(command)
        };
        // Record: an hour to live. Staples: from an hour ago, for a week. Leaf: from a month ago, for two months.
        for (shift, reason) in [
            ("+2h", "record-expired"),
            ("+23h", "record-expired"),
            ("-2h", "staple-stale"),
            ("+8d", "staple-stale"),
            ("-40d", "signer-expired"),
            ("+100d", "signer-expired"),
            ("+2y", "signer-expired"),
            ("+10y", "signer-expired"),
            ("-10y", "signer-expired"),
            ("-30y", "signer-expired"),
            ("+60y", "signer-expired"),
            ("-80y", "internal"),
        ] {
            at(shift)
                .refusal(&[reason])
                .map_err(|error| format!("{shift}: {error}"))
                .unwrap();
        }
        for shift in ["+0", "+50m", "-50m"] {
            at(shift)
                .key()
                .map_err(|error| format!("{shift}: {error}"))
                .unwrap();
        }
    });
}

#[test]
fn disk_without_a_free_byte_changes_nothing() {
    let name = "host::disk_without_a_free_byte_changes_nothing";
    in_namespaces(name, || {
        let ground = Ground::new();
        let simulator = nitro();
        let config = configuration(&simulator);
        let here = ground.directory.path().display();
        // The whole tree of files again, on a disk that is full.
        sh(&format!(
            "mkdir {here}/disk {here}/root; mount -t tmpfs -o size=256k,nr_inodes=64 tmpfs {here}/disk
             mkdir {here}/disk/upper {here}/disk/work
             mount -t overlay -o lowerdir=/,upperdir={here}/disk/upper,workdir={here}/disk/work overlay {here}/root
             for below in /dev /opt /proc /run /sys {state}; do mount --rbind $below {here}/root$below; done
             mkdir -p {here}/root/tmp; dd if=/dev/zero of={here}/root/var/tmp/filler bs=4k 2>/dev/null || true",
            state = simulator.state_dir().display()
        ));
        assert!(
            fs::write(ground.directory.path().join("root/var/tmp/more"), [0; 8192]).is_err(),
            "the disk is not full"
        );
        let root = format!("{here}/root");
        let mut command = ground.below(&["/usr/sbin/chroot", "--userspec=64123:64123", &root], &config);
        command.uid(0).gid(0);
        ground.run(command).key().unwrap();

        // Output that goes to a full disk is lost, and no more than that.
        sh("mknod -m 0666 /dev/full c 1 7");
        let mut command = ground.command(&config);
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
        let run = ground.run(command);
        assert_eq!(run.code, Some(0), "{run:?}");
    });
}

/// A configuration on a network file system whose server has gone, as autofs without its daemon is one.
#[test]
fn file_system_that_never_answers_is_ended_by_the_alarm() {
    let name = "host::file_system_that_never_answers_is_ended_by_the_alarm";
    in_namespaces(name, || {
        let ground = Ground::new();
        let place = ground.directory.path().join("stalled");
        let pipe = ground.directory.path().join("pipe");
        sh(&format!("mkfifo {}; mkdir {}", pipe.display(), place.display()));
        let _daemon = File::options().read(true).write(true).open(&pipe).unwrap();
        // The daemon's own process group passes; the helper must be in another.
        let mounted = format!(
            "mount -t autofs -o fd=3,pgrp={},minproto=5,maxproto=5,direct none {} 3<>{}",
            nix::unistd::getpgrp(),
            place.display(),
            pipe.display()
        );
        if fs::read_to_string("/proc/filesystems").is_ok_and(|known| !known.contains("autofs")) {
            return println!("NOTE: this kernel has no autofs");
        }
        sh(&mounted);
        let mut command = ground.command(&place.join("config.toml"));
        command.process_group(0);
        let run = ground.run(command);
        // SIGALRM after 20 s. sshd throws away what a command printed that died so; there was nothing.
        assert_eq!((run.code, run.stdout.as_str()), (None, ""), "{run:?}");
        assert!(
            run.took > Duration::from_secs(15) && run.took < Duration::from_secs(40),
            "{run:?}"
        );
    });
}

#[test]
fn sixteen_megabytes_of_memory_are_enough_for_any_answer() {
    let name = "host::sixteen_megabytes_of_memory_are_enough_for_any_answer";
    if !tools(name, &["prlimit"]) {
        return;
    }
    in_namespaces(name, || {
        let ground = Ground::new();
        let simulator = nitro();
        let config = configuration(&simulator);
        let within = |bytes: usize| {
            let limit = format!("--data={bytes}");
            ground.run(ground.below(&["prlimit", &limit, "--"], &config))
        };
        let enough = 16 * 1024 * 1024;
        within(enough).key().unwrap();

        // A full document of small records, each to be judged.
        let one = Record::new(INSTANCE, KEY_LINE);
        let many: Vec<Record> = (0..1000)
            .map(|number| one.clone().header(&format!("#N={number}")))
            .collect();
        simulator.put_document(
            USER,
            record::document(&many, simulator.signer().key(), clock::now()),
        );
        within(enough).key().unwrap();
        simulator.restore();

        for path in [
            format!("{}{USER}/", imds::ACTIVE_KEYS),
            imds::SIGNER_CERT.to_owned(),
            imds::SIGNER_OCSP.to_owned(),
        ] {
            simulator.fault(Fault::on(&path, Effect::Endless));
            within(enough).refusal(&["imds-too-large"]).unwrap();
            simulator.clear_faults();
        }

        // Below what it needs it may die, but never with half a word on standard output.
        let mut died = 0;
        for step in 1..=32 {
            let run = within(step * 32 * 1024);
            let whole = run.stdout.is_empty() || run.stdout == format!("{KEY_LINE}\n");
            assert!(
                whole && (run.code == Some(0) || run.stdout.is_empty()),
                "{step}: {run:?}"
            );
            died += usize::from(run.code != Some(0));
        }
        assert!(died > 0, "no limit was too small: nothing was tried");
        within(enough).key().unwrap();
    });
}

/// Few descriptors, few processes, no core, small files, a small stack: what an administrator may have set for sshd.
#[test]
fn limits_that_starve_it_are_refused_or_kill_it_with_nothing_printed() {
    let name = "host::limits_that_starve_it_are_refused_or_kill_it_with_nothing_printed";
    if !tools(name, &["prlimit"]) {
        return;
    }
    in_namespaces(name, || {
        let ground = Ground::new();
        let simulator = nitro();
        let config = configuration(&simulator);
        let within = |limits: &[&str]| {
            let words: Vec<&str> = ["prlimit"].iter().chain(limits).copied().chain(["--"]).collect();
            ground.run(ground.below(&words, &config))
        };
        within(&[
            "--nproc=1",
            "--core=0",
            "--fsize=0",
            "--stack=262144",
            "--nofile=32",
            "--memlock=0",
        ])
        .key()
        .unwrap();
        let mut given = 0;
        for files in 3..24 {
            let run = within(&[&format!("--nofile={files}")]);
            if run.stdout.is_empty() {
                // The log needs a descriptor as well.
                assert!(
                    run.lines.is_empty() || run.refusal(&STARVED).is_ok(),
                    "{files}: {run:?}"
                );
            } else {
                run.printed_the_key().unwrap();
                given += 1;
            }
            // With fewer the dynamic loader gives up, and so does the runtime as it is built for these tests, which
            // beside the simulator's code has more to open than the shipped one.
            if files >= 8 {
                assert_eq!(run.code, Some(0), "{files}: {run:?}");
            }
        }
        assert!(given > 5, "{given}");
    });
}

/// What the lack of descriptors may be called, by what could not be opened.
const STARVED: [&str; 6] = [
    "config",
    "not-ec2",
    "anchors",
    "internal",
    "imds-unreachable",
    "deadline",
];

#[test]
fn slow_absent_deaf_and_full_loggers_cost_no_key() {
    let name = "host::slow_absent_deaf_and_full_loggers_cost_no_key";
    in_namespaces(name, || {
        let ground = Ground::without_log();
        let simulator = nitro();
        for journal in ["/dev/log", "/run/systemd/journal/socket"] {
            fs::create_dir_all(Path::new(journal).parent().unwrap()).unwrap();
            // Nobody there.
            ground.login(&simulator).printed_the_key().unwrap();
            // A file where the socket should be.
            fs::write(journal, "").unwrap();
            ground.login(&simulator).printed_the_key().unwrap();
            fs::remove_file(journal).unwrap();

            // A queue that nobody reads.
            let log = UnixDatagram::bind(journal).unwrap();
            fs::set_permissions(journal, fs::Permissions::from_mode(0o666)).unwrap();
            let flood = UnixDatagram::unbound().unwrap();
            flood.connect(journal).unwrap();
            flood.set_nonblocking(true).unwrap();
            let fill = || while flood.send(b"<13>flood").is_ok() {};
            fill();
            ground.login(&simulator).printed_the_key().unwrap();

            // One that is read now and then: each line waits, all lines together no longer than the patience.
            log.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            std::thread::scope(|scope| {
                let login = scope.spawn(|| ground.login(&simulator));
                let mut buffer = [0; 8192];
                while !login.is_finished() {
                    let _ = log.recv(&mut buffer);
                    std::thread::sleep(Duration::from_millis(40));
                    fill();
                }
                login.join().unwrap().printed_the_key().unwrap();
            });

            // One that has died and left its socket.
            drop(log);
            ground.login(&simulator).printed_the_key().unwrap();
            fs::remove_file(journal).unwrap();
        }
    });
}

/// The same under many logins at once, with faults at random from a seed: what one test alone did not think of.
#[test]
fn storm_of_logins_under_chance_faults_gives_keys_or_reasons() {
    let name = "host::storm_of_logins_under_chance_faults_gives_keys_or_reasons";
    in_namespaces(name, || {
        let ground = Ground::new();
        let simulator = nitro();
        let config = configuration(&simulator);
        // Every third request late, every fifth throttled, every seventh reset.
        for number in 0..200 {
            simulator.fault(Fault::under("/", Effect::Delay(50)).skip(number * 3).times(1));
            simulator.fault(Fault::under("/", Effect::Status(503)).skip(number * 5).times(1));
            simulator.fault(Fault::under("/", Effect::Reset).skip(number * 7).times(1));
        }
        let logins = vec![(); if long() { 600 } else { 60 }];
        let begun = Instant::now();
        each(&logins, |()| {
            let run = ground.run(ground.command(&config));
            run.key_or_refusal(&["imds-throttled", "imds-unreachable", "imds-timeout", "deadline"])
        });
        println!("{} logins in {:?}", logins.len(), begun.elapsed());
        simulator.clear_faults();
        ground.run(ground.command(&config)).key().unwrap();
    });
}
