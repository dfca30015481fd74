class { 'ec2_instance_connect':
  ensure => absent,
}
