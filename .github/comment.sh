#!/usr/bin/env bash
# A Markdown file as the comment on a pull request: written once, then edited in place.
#   usage: comment.sh NUMBER FILE    (GITHUB_REPOSITORY says where, GH_TOKEN lets in)
# GitHub has no API to attach a picture to a comment, so the PNG files beside FILE go to a branch that has nothing else.
set -euo pipefail
number=$1 file=$2 marker='<!-- lekhani promotion -->' branch=lekhani-reports
url=${GITHUB_SERVER_URL:-https://github.com}/$GITHUB_REPOSITORY
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
body=$work/body.md
{ echo "$marker"; cat "$file"; } > "$body"

publish() { # the pictures as a commit on the branch, whose hash it prints
  local there=$work/branch
  local git=(git -C "$there" -c credential.helper= -c credential.helper='!gh auth git-credential')
  rm -rf "$there" && git init --quiet "$there"
  if "${git[@]}" fetch --quiet --depth 1 "$url" "$branch" 2> /dev/null; then
    git -C "$there" checkout --quiet -b "$branch" FETCH_HEAD
  else
    git -C "$there" checkout --quiet --orphan "$branch"
  fi
  mkdir -p "$there/$number"
  cp "$(dirname "$file")"/*.png "$there/$number/"
  git -C "$there" add .
  git -C "$there" -c user.name=github-actions -c user.email='41898282+github-actions[bot]@users.noreply.github.com' \
    commit --quiet --allow-empty --message "Pictures for #$number"
  "${git[@]}" push --quiet "$url" "HEAD:refs/heads/$branch" && git -C "$there" rev-parse HEAD
}

if compgen -G "$(dirname "$file")/*.png" > /dev/null; then
  commit=$(publish || publish || publish) # another pull request may push at the same moment
  # The commit rather than the branch, so that a later run leaves what this comment shows as it is.
  sed -Ei "s|(!\[[^]]*\])\(([^():/]+\.png)\)|\1($url/blob/$commit/$number/\2?raw=true)|" "$body"
fi

known=$(gh api --paginate "repos/$GITHUB_REPOSITORY/issues/$number/comments" \
  --jq ".[] | select(.body | startswith(\"$marker\")) | .id")
if [ -n "$known" ]; then
  gh api --silent --method PATCH "repos/$GITHUB_REPOSITORY/issues/comments/${known%%$'\n'*}" --field "body=@$body"
else
  gh api --silent --method POST "repos/$GITHUB_REPOSITORY/issues/$number/comments" --field "body=@$body"
fi
