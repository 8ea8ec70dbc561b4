"""SFTP: OpenSSH's `ssh` as a child process, and version 3 of the SFTP protocol over its pipes."""
