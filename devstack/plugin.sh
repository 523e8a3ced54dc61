# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Sourced by DevStack: plugin.sh MODE [PHASE].  Every phase may be run again.
#
# The daemon starts in post-config: the services that need it start between that and the next phase.

if is_service_enabled fisk; then
    case "$1${2:+ $2}" in
        "stack pre-install")
            echo_summary "Preparing Fisk"
            check_fisk
            ;;
        "stack install")
            echo_summary "Installing Fisk"
            install_fisk
            ;;
        "stack post-config")
            echo_summary "Configuring and starting Fisk"
            configure_fisk
            configure_fisk_glance
            configure_fisk_nova
            start_fisk
            init_fisk
            ;;
        "stack extra")
            # The services are up.
            echo_summary "Fisk serves: $(fisk_uses)"
            ;;
        "stack test-config")
            configure_fisk_tempest
            ;;
        unstack)
            stop_fisk
            unconfigure_fisk_glance
            unconfigure_fisk_nova
            ;;
        clean)
            cleanup_fisk
            ;;
    esac
fi
