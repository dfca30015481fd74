//! A whole instance in namespaces of the test's own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use eic_simulator::{Simulator, World};

use super::machine::{own_dev, sh};
use super::run::HELPER;

/// Everything as on an instance: the real addresses, the firmware's file, the default configuration but for the
/// anchors, a user of its own, and a logger.
pub struct Instance {
    /// Its EC2.
    pub simulator: Simulator,
    /// Its `/dev/log`.
    pub log: UnixDatagram,
    /// What lies below its mounts.
    pub directory: tempfile::TempDir,
}

impl Instance {
    /// Makes this process's namespaces into one.
    pub fn new(world: World) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        sh("ip addr add 169.254.169.254/32 dev lo; ip -6 addr add fd00:ec2::254/128 dev lo nodad");
        let simulator = Simulator::start(world.change(|facts| {
            facts.listen = vec![
                "169.254.169.254:80".parse().unwrap(),
                "[fd00:ec2::254]:80".parse().unwrap(),
            ];
        }))
        .unwrap();
        own_dev(directory.path());
        let log = UnixDatagram::bind("/dev/log").unwrap();
        fs::set_permissions("/dev/log", fs::Permissions::from_mode(0o666)).unwrap();
        log.set_read_timeout(Some(Duration::from_secs(2))).unwrap();

        let here = directory.path().display();
        let root = simulator.root_pem();
        let root = root.display();
        // sysfs takes no new files; a layer over it does.
        let firmware = simulator.sysfs().join("devices/virtual");
        let firmware = firmware.display();
        sh(&format!(
            "mount -t tmpfs -o mode=0755 tmpfs /opt; mkdir -p /opt/aws/bin {here}/etc
         install -m 0755 {HELPER} /opt/aws/bin/eic_run_authorized_keys
         mount -t tmpfs -o mode=0755 tmpfs /run; mkdir -p /run/sshd
         cp -a /etc/passwd /etc/group /etc/shadow {here}/etc/
         echo 'ec2-instance-connect:x:64123:64123::/nonexistent:/usr/sbin/nologin' >>{here}/etc/passwd
         echo 'ec2-user:x:64124:64124::/:/bin/sh' >>{here}/etc/passwd
         echo 'ec2-user:*:1::::::' >>{here}/etc/shadow
         for file in passwd shadow; do mount --bind {here}/etc/$file /etc/$file; done
         mkdir -p {here}/eic; cp {root} {here}/eic/anchors.pem; mkdir -p /etc/ec2-instance-connect
         printf '[trust]\\nanchors = \"/etc/ec2-instance-connect/anchors.pem\"\\n' >{here}/eic/config.toml
         mount --bind {here}/eic /etc/ec2-instance-connect
         mount -t overlay overlay -o lowerdir={firmware}:/sys/devices/virtual /sys/devices/virtual"
        ));
        Self {
            simulator,
            log,
            directory,
        }
    }
}

/// The helper's lines since the last call.
pub fn lines(log: &UnixDatagram) -> Vec<String> {
    let mut lines = Vec::new();
    log.set_nonblocking(true).unwrap();
    let mut buffer = [0; 8192];
    while let Ok(length) = log.recv(&mut buffer) {
        lines.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    lines
        .into_iter()
        .filter(|line| line.contains("ec2-instance-connect["))
        .collect()
}
