# Sourced by the scripts beside it. `step TITLE` says what begins, and what the step before it took; a table ends the run.
#
# The first figure is processor seconds, which hardly depend on what else the machine does: on two idle cores a step takes at least
# half as many by the clock, the second figure.

step_title=
step_began=0
step_processors=0
step_table=
step_times=$(mktemp)
trap end_steps EXIT

# Sets `now_processors` to the processor seconds of all processes that this script has waited for.
read_processors() {
    # Not through a pipe: a subshell has no children.
    times >"$step_times"
    now_processors=$(sed -n '2s/[ms]/ /gp' "$step_times" | awk '{ printf "%d", 60 * ($1 + $3) + $2 + $4 + 0.5 }')
}

end_step() {
    [[ $step_title ]] || return 0
    local now_processors line
    read_processors
    line=$(printf '%5d %5d  %s' $((now_processors - step_processors)) $((SECONDS - step_began)) "$step_title")
    step_table+=$line$'\n'
    step_title=
}

# To be called where a script's own trap replaces this one's.
end_steps() {
    end_step
    rm -f "$step_times"
    printf '\nprocessor seconds, seconds, step\n%s' "$step_table"
}

step() {
    local now_processors
    end_step
    read_processors
    step_title=$* step_began=$SECONDS step_processors=$now_processors
    printf '\n== %s\n' "$*"
}
