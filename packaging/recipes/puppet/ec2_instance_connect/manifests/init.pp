# @summary Installs EC2 Instance Connect and has sshd ask for pushed keys; or takes it away again.
#
# @param ensure
#   present or absent
# @param package
#   The package's name in a repository that the machine knows.
class ec2_instance_connect (
  Enum['present', 'absent'] $ensure  = 'present',
  String[1]                 $package = 'ec2-instance-connect',
) {
  if $ensure == 'present' {
    package { $package:
      ensure => installed,
    }
    # Installing has configured sshd; this mends what was undone later, and fails, saying why, where it cannot.
    exec { 'ec2-instance-connect setup apply':
      path    => ['/usr/sbin', '/usr/bin', '/sbin', '/bin'],
      unless  => "sh -c 'mkdir -p /run/sshd; sshd -T -C user=root,host=localhost,addr=127.0.0.1 | grep -qi \"^authorizedkeyscommand .*/eic_run_authorized_keys \"'",
      require => Package[$package],
    }
  } else {
    # Removing gives sshd's configuration back as it was.
    package { $package:
      ensure => purged,
    }
  }
}
