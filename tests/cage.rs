//! The helper's cage: what is done in it on purpose is stopped, and a login in it, or where it cannot be had, is not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::exit,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that fails shall say so at once"
)]

mod common;

use std::fs::{self, File};
use std::net::{SocketAddrV4, TcpListener};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::case::{Case, INSTANCE, KEY_LINE};
use common::machine::{in_namespaces, own_dev, sh, without_calls};
use common::run;
use ec2_instance_connect::cage::{self, Needs};
use ec2_instance_connect::config::Anchors;
use ec2_instance_connect::trust::anchors;
use eic_simulator::{Simulator, World};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn};

/// The act that this test program, started again, does in the cage.
const ACT: &str = "EIC_TEST_ACT_IN_CAGE";

/// What an act in the cage found that did not end the process.
const DONE: i32 = 10;
/// Added to an errno; all that are seen here are below 128.
const REFUSED: i32 = 100;

/// Does one thing in the cage: this is the process that is stopped, or not. Without an act it is no test.
#[test]
fn inside() {
    let Ok(act) = std::env::var(ACT) else { return };
    let status = match perform(&act) {
        Ok(()) => DONE,
        Err(errno) => REFUSED + errno as i32,
    };
    std::process::exit(status);
}

/// Prepares what the act needs, enters the cage, and acts.
fn perform(act: &str) -> Result<(), Errno> {
    let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
    let socket = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    let address = SockaddrIn::from(SocketAddrV4::new([127, 0, 0, 1].into(), 0));
    let datagram = UnixDatagram::unbound().unwrap();
    // The parent's directory: a process that is killed clears nothing away.
    let here = &std::env::current_dir().unwrap();
    let (readable, other) = (here.join("readable"), here.join("other"));
    fs::write(&readable, "text").unwrap();
    fs::write(&other, "text").unwrap();
    let directory = File::open(here).unwrap();
    let parent = File::open(here.parent().unwrap()).unwrap();
    let mut child = act
        .starts_with("children-")
        .then(|| Command::new("sleep").arg("100").spawn().unwrap());
    let held = cage::enter(&Needs {
        read: &[&readable],
        claims: act.starts_with("claims-").then(|| directory.as_fd()),
        children: child.is_some(),
    });
    assert_eq!(
        held.to_string(),
        "no-new-privs,limits,landlock,seccomp",
        "{held:?}"
    );
    match act {
        "nothing" => Ok(()),
        "execve" => Err(errno(Command::new("/bin/true").exec())),
        "ptrace" => nix::sys::ptrace::traceme(),
        "connect" => datagram.connect("/dev/log").map_err(errno),
        "bind" => socket::bind(socket.as_raw_fd(), &address),
        "listen" => socket::listen(&socket, Backlog::new(1).unwrap()),
        "init-module" => nix::kmod::init_module(&[], c""),
        "finit-module" => nix::kmod::finit_module(&directory, c"", nix::kmod::ModuleInitFlags::empty()),
        "delete-module" => nix::kmod::delete_module(c"nothing", nix::kmod::DeleteModuleFlags::O_NONBLOCK),
        "mount" => nix::mount::mount(
            None::<&Path>,
            here.as_path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            None::<&str>,
        ),
        "umount" => nix::mount::umount2(here.as_path(), nix::mount::MntFlags::MNT_DETACH),
        "pivot-root" => nix::unistd::pivot_root(here.as_path(), here.as_path()),
        "fork" => Command::new("/bin/true").status().map(drop).map_err(errno),
        "socket" => TcpListener::bind("127.0.0.1:0").map(drop).map_err(errno),
        "mkdir" => fs::create_dir(here.join("made")).map_err(errno),
        "chdir" => nix::unistd::chdir("/"),
        "read-named" => fs::read(&readable).map(drop).map_err(errno),
        "read-other" => fs::read(&other).map(drop).map_err(errno),
        "read-passwd" => fs::read("/etc/passwd").map(drop).map_err(errno),
        "read-absent" => fs::read(here.join("absent")).map(drop).map_err(errno),
        "write-named" => File::options()
            .write(true)
            .open(&readable)
            .map(drop)
            .map_err(errno),
        "create" => File::create(here.join("made")).map(drop).map_err(errno),
        "symlink" | "claims-make" => nix::unistd::symlinkat("4711-1", &directory, "made"),
        "claims-read" => nix::fcntl::readlinkat(&directory, "absent").map(drop),
        "claims-create" => File::create(here.join("made")).map(drop).map_err(errno),
        "claims-elsewhere" => nix::unistd::symlinkat("4711-1", &parent, "made"),
        "claims-remove" => fs::remove_file(&other).map_err(errno),
        "children-end" => {
            let child = child.as_mut().unwrap();
            child.kill().and_then(|()| child.wait()).map(drop).map_err(errno)
        }
        "signal" => nix::sys::signal::kill(nix::unistd::getppid(), None),
        "send" => datagram.send_to(b"x", "/dev/log").map(drop).map_err(errno),
        "abort" => std::process::abort(),
        "memory" => {
            let much: Vec<u8> = vec![1; 512 * 1024 * 1024];
            Err(Errno::from_raw(i32::from(much[much.len() - 1])))
        }
        _ => panic!("no act {act}"),
    }
}

/// This test program, started again for one act.
fn act(act: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--nocapture", "--test-threads=1"])
        .env(ACT, act)
        .current_dir(directory.path())
        .output()
        .unwrap()
}

/// The errno that the act was refused with; none where it succeeded.
#[track_caller]
fn refused(name: &str) -> Option<Errno> {
    let output = act(name);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(DONE) => None,
        Some(code) if code >= REFUSED => Some(Errno::from_raw(code - REFUSED)),
        _ => panic!("{name}: {}: {said}", output.status),
    }
}

#[test]
fn who_runs_traces_connects_listens_loads_or_mounts_in_the_cage_is_killed() {
    assert_eq!(refused("nothing"), None);
    for name in [
        "execve",
        "ptrace",
        "connect",
        "bind",
        "listen",
        "init-module",
        "finit-module",
        "delete-module",
        "mount",
        "umount",
        "pivot-root",
    ] {
        let output = act(name);
        assert_eq!(
            output.status.signal(),
            Some(nix::libc::SIGSYS),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn what_nobody_foresaw_fails_and_the_process_lives() {
    for name in ["fork", "socket", "mkdir", "chdir", "signal"] {
        assert_eq!(refused(name), Some(Errno::ENOSYS), "{name}");
    }
}

#[test]
fn a_file_that_the_proof_does_not_need_is_out_of_reach() {
    assert_eq!(refused("read-named"), None);
    assert_eq!(refused("read-absent"), Some(Errno::ENOENT));
    for name in ["read-other", "read-passwd", "write-named", "create"] {
        assert_eq!(refused(name), Some(Errno::EACCES), "{name}");
    }
}

#[test]
fn claims_are_made_in_their_directory_and_nothing_else_is_done_there() {
    assert_eq!(refused("symlink"), Some(Errno::ENOSYS));
    assert_eq!(refused("claims-make"), None);
    assert_eq!(refused("claims-read"), Some(Errno::ENOENT));
    for name in ["claims-elsewhere", "claims-create"] {
        assert_eq!(refused(name), Some(Errno::EACCES), "{name}");
    }
    assert_eq!(refused("claims-remove"), Some(Errno::ENOSYS));
}

#[test]
fn a_child_that_was_started_before_can_be_ended() {
    assert_eq!(refused("children-end"), None);
}

/// A panic of the shipped program, which aborts, ends as one outside of the cage does.
#[test]
fn an_abort_is_not_held_up() {
    let output = act("abort");
    assert_eq!(output.status.signal(), Some(nix::libc::SIGABRT), "{output:?}");
}

#[test]
fn memory_beyond_the_limit_ends_the_process() {
    let output = act("memory");
    assert_eq!(output.status.signal(), Some(nix::libc::SIGABRT), "{output:?}");
}

/// The bundles that a distribution keeps behind a link are read as well.
#[test]
fn the_systems_bundle_can_be_read_in_the_cage() {
    assert!(anchors::files(&Anchors::Amazon).is_empty());
    assert_eq!(anchors::files(&Anchors::File("/a".into())), [Path::new("/a")]);
    let bundles = anchors::files(&Anchors::Auto);
    assert!(
        bundles.contains(&Path::new("/etc/ssl/certs/ca-certificates.crt")),
        "{bundles:?}"
    );
}

const USER: &str = "ec2-user";

fn simulator() -> (Simulator, tempfile::TempDir, PathBuf) {
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    simulator.push(USER, KEY_LINE);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    let text = format!("{}\n[log]\nlevel = \"debug\"\n", simulator.config_toml());
    fs::write(&path, text).unwrap();
    (simulator, directory, path)
}

/// What the log at level debug says of the cage.
fn caged(outcome: &run::Outcome) -> Option<String> {
    let decided = outcome.stderr.lines().find(|line| line.starts_with("Decided "))?;
    Some(decided.split_once(" cage=")?.1.to_owned())
}

#[test]
fn a_login_with_a_key_is_proved_in_the_whole_cage() {
    let (_simulator, _directory, config) = simulator();
    let outcome = run::with_config(&config, &[USER]);
    assert_eq!(outcome.stdout, format!("{KEY_LINE}\n"), "{outcome:?}");
    assert_eq!(
        caged(&outcome).as_deref(),
        Some("no-new-privs,limits,landlock,seccomp")
    );
}

#[test]
fn a_login_without_a_key_enters_no_cage() {
    let (_simulator, _directory, config) = simulator();
    let outcome = run::with_config(&config, &["nobody-pushed"]);
    assert_eq!(
        (outcome.stdout.as_str(), outcome.code),
        ("", Some(0)),
        "{outcome:?}"
    );
    assert_eq!(outcome.reasons(), ["no-key"]);
    assert_eq!(caged(&outcome), None);
}

#[test]
fn a_login_where_the_kernel_has_no_cage_is_not_refused() {
    let (_simulator, _directory, config) = simulator();
    for (calls, left) in [
        (
            &[nix::libc::SYS_seccomp][..],
            "no-new-privs,limits,landlock seccomp=",
        ),
        (
            &[nix::libc::SYS_landlock_create_ruleset],
            "no-new-privs,limits,seccomp landlock=",
        ),
        (
            &[
                nix::libc::SYS_seccomp,
                nix::libc::SYS_landlock_create_ruleset,
                nix::libc::SYS_prctl,
                nix::libc::SYS_prlimit64,
            ],
            "none no-new-privs=",
        ),
    ] {
        let outcome = without_calls(calls, || run::with_config(&config, &[USER]));
        assert_eq!(outcome.stdout, format!("{KEY_LINE}\n"), "{outcome:?}");
        assert!(caged(&outcome).unwrap().starts_with(left), "{outcome:?}");
    }
}

/// The standard library itself panics where it finds no random bytes: getrandom(2) fails, and there is no device.
#[test]
fn a_panic_ends_with_nothing_on_standard_output_and_no_success() {
    let name = "a_panic_ends_with_nothing_on_standard_output_and_no_success";
    in_namespaces(name, || {
        let (_simulator, directory, config) = simulator();
        own_dev(directory.path());
        let traced = |inject: &[&str]| {
            let mut strace = Command::new("strace");
            strace.args(["-f", "-o", "/dev/null"]).args(inject);
            run::run(strace.arg(run::HELPER).arg("--config").arg(&config).arg(USER))
        };
        sh("rm /dev/urandom");
        let outcome = traced(&[]);
        assert_eq!(outcome.stdout, format!("{KEY_LINE}\n"), "{outcome:?}");

        let outcome = traced(&["-e", "inject=getrandom:error=ENOSYS"]);
        assert!(outcome.stderr.contains("panicked at"), "{outcome:?}");
        assert_eq!(outcome.stdout, "");
        assert_ne!(outcome.code, Some(0));
    });
}

/// A proof that reads a bundle, in the cage.
#[test]
fn the_anchors_that_the_configuration_names_are_read_in_the_cage() {
    let (simulator, _directory, _) = simulator();
    // The simulator's configuration names its root's file: the proof has read it.
    assert!(simulator.config_toml().contains("anchors = "));
    run::login(&simulator, USER).gave(&[KEY_LINE]);
    assert!(Case::usual().verdict().is_ok());
}
